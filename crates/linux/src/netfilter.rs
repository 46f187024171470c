//! Netlink messages of netfilter: how they are framed, sent and answered. Numbers are the kernel's, from its uapi headers
//! linux/netfilter/nfnetlink.h and linux/netlink.h.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
    sockopt,
};

pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACK: u16 = 0x4;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
/// Seconds to wait for the kernel's answers; it answers at once or something is badly wrong.
const ANSWER_WAIT_SEC: i64 = 5;

/// Head of a message: what it asks for, and of which subsystem.
pub(crate) struct Head {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) family: u8,
    pub(crate) resource: u16,
}

/// Messages that are sent together.
#[derive(Default)]
pub(crate) struct Messages {
    pub(crate) bytes: Vec<u8>,
    sequence: u32,
}

impl Messages {
    pub(crate) fn add(&mut self, head: &Head, body: impl FnOnce(&mut Attributes)) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&head.kind.to_ne_bytes());
        self.bytes.extend_from_slice(&head.flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&[head.family, 0]);
        self.bytes.extend_from_slice(&head.resource.to_be_bytes());
        body(&mut Attributes { bytes: &mut self.bytes });
        let length = u32::try_from(self.bytes.len() - begin).expect("messages of rules are far below 4 GiB");
        self.bytes[begin..begin + 4].copy_from_slice(&length.to_ne_bytes());
        self.sequence += 1;
    }

    /// Sends all of them and waits until the last one, which must ask for it, is acknowledged.
    pub(crate) fn send(self, netlink: &OwnedFd) -> io::Result<()> {
        let last = self.sequence.saturating_sub(1);
        send(netlink.as_raw_fd(), &self.bytes, MsgFlags::empty())?;
        let mut buffer = vec![0u8; 32 * 1024];
        loop {
            let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for (sequence, code) in answers(&buffer[..length]) {
                if code != 0 {
                    return Err(io::Error::from_raw_os_error(-code));
                }
                if sequence == last {
                    return Ok(());
                }
            }
        }
    }
}

/// Opens a netfilter socket in the calling thread's network namespace, to which it belongs from then on.
pub(crate) fn open() -> io::Result<OwnedFd> {
    let netlink =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
    bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    setsockopt(&netlink, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(ANSWER_WAIT_SEC, 0))?;
    Ok(netlink)
}

/// Sequence number and error code of every acknowledgement in what the kernel sent.
fn answers(mut bytes: &[u8]) -> Vec<(u32, i32)> {
    const ERROR: u16 = 2;
    let word = |bytes: &[u8], at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    let mut found = Vec::new();
    while let (Some(length), Some(sequence)) = (word(bytes, 0), word(bytes, 8)) {
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        if let (ERROR, Some(code)) = (kind, word(bytes, 16)) {
            found.push((sequence, code.cast_signed()));
        }
        let step = (length as usize).next_multiple_of(4).max(16);
        bytes = bytes.get(step..).unwrap_or_default();
    }
    found
}

/// Netlink attributes at the end of a message.
pub(crate) struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    pub(crate) fn raw(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("attributes of rules are short");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.raw(kind, &bytes);
    }

    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.raw(kind, &value.to_be_bytes());
    }

    pub(crate) fn long_number(&mut self, kind: u16, value: u64) {
        self.raw(kind, &value.to_be_bytes());
    }

    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Attributes)) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        body(&mut Attributes { bytes: self.bytes });
        let length = u16::try_from(self.bytes.len() - begin).expect("attributes of rules are short");
        self.bytes[begin..begin + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes[begin + 2..begin + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
    }
}
