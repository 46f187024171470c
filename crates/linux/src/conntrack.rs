//! Entries of connection tracking, by the mark that a rule gave them. Numbers are the kernel's, from its uapi headers
//! linux/netfilter/nfnetlink_conntrack.h.

use std::io;
use std::os::fd::OwnedFd;

use crate::netfilter::{self, ACK, Head, Messages, REQUEST};

const SUBSYSTEM: u16 = 1;
const DELETE: u16 = SUBSYSTEM << 8 | 2;
const MARK: u16 = 8;
const MARK_MASK: u16 = 21;

/// Connection tracking of one network namespace.
pub struct Conntrack(OwnedFd);

impl Conntrack {
    /// Opens that of the calling thread's network namespace.
    ///
    /// # Errors
    /// No right, or a kernel without netfilter.
    pub fn here() -> io::Result<Self> {
        netfilter::open().map(Self)
    }

    /// Deletes every entry with this mark; none is no error. Blocks while the kernel goes through its table.
    ///
    /// # Errors
    /// The kernel refuses, or does not answer in time.
    pub fn delete_marked(&self, mark: u32) -> io::Result<()> {
        let mut messages = Messages::default();
        let head = Head { kind: DELETE, flags: REQUEST | ACK, family: 0, resource: 0 };
        messages.add(&head, |a| {
            a.number(MARK, mark);
            a.number(MARK_MASK, u32::MAX);
        });
        messages.send(&self.0)
    }
}
