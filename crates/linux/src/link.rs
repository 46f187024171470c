//! A guest's own network links, by ioctl: three calls at boot are not worth a netlink library in a 1 MB init.
//!
//! Knows IPv4 only. Host side networking lives elsewhere and speaks netlink.
#![allow(unsafe_code)]

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

use crate::syscall::{SyscallError, check};

/// Brings the link `name` up.
///
/// # Errors
/// No such link, or not root.
pub fn set_up(name: &str) -> Result<(), SyscallError> {
    let socket = socket()?;
    let mut request = request(name);
    // SAFETY: `request` is a live, correctly sized ifreq; the kernel fills its flags.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &mut request) };
    check(answer.into(), "read flags of link", name)?;
    // SAFETY: SIOCGIFFLAGS has just written the `flags` member of the union.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as i16 };
    // SAFETY: as above; the kernel only reads the request.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) };
    check(answer.into(), "bring up link", name).map(|_| ())
}

/// Gives the link `name` its IPv4 address; `prefix` is the network's length in bits, 0 to 32.
///
/// # Errors
/// No such link, or not root.
pub fn set_address(name: &str, address: Ipv4Addr, prefix: u8) -> Result<(), SyscallError> {
    let socket = socket()?;
    let mask = Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0));
    for (code, value, act) in
        [(libc::SIOCSIFADDR, address, "set address of link"), (libc::SIOCSIFNETMASK, mask, "set netmask of link")]
    {
        let mut request = request(name);
        request.ifr_ifru.ifru_addr = sockaddr(value);
        // SAFETY: `request` is a live ifreq whose address member is set; the kernel only reads it.
        let answer = unsafe { libc::ioctl(socket.as_raw_fd(), code as _, &request) };
        check(answer.into(), act, name)?;
    }
    Ok(())
}

/// Sends everything without a better route to `gateway`. A route that is there already is no error.
///
/// # Errors
/// The gateway is on no link, or not root.
pub fn set_default_route(gateway: Ipv4Addr) -> Result<(), SyscallError> {
    let socket = socket()?;
    // SAFETY: rtentry is plain C data for which all zeroes is a valid value.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = sockaddr(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = sockaddr(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = sockaddr(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    // SAFETY: `route` is a live rtentry without pointers; the kernel only reads it.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT as _, &route) };
    match check(answer.into(), "add default route via", gateway.to_string()) {
        Err(error) if error.errno() == Some(libc::EEXIST) => Ok(()),
        other => other.map(|_| ()),
    }
}

fn socket() -> Result<UdpSocket, SyscallError> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(|e| SyscallError::new("open", "an IPv4 socket", e))
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: ifreq is plain C data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: names longer than the kernel allows are cut and then not found.
    for (slot, byte) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    request
}

fn sockaddr(address: Ipv4Addr) -> libc::sockaddr {
    let inet = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: both are plain C data of 16 bytes; the kernel reads a sockaddr as the family it names.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(inet) }
}
