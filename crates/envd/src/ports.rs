//! `envd ports`: which ports programs in this sandbox listen on, whose they are, and where they can be reached from outside.
//!
//! Run by people and scripts in the sandbox; talks to nobody, reads /proc and the files envd wrote at `/init`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context, bail};
use serde::Serialize;
use wrenn_contract::guest::{GUEST_ADDR, PORT};

/// Domain when neither the caller nor `/init` named one.
const DOMAIN_DEFAULT: &str = "wrenn.dev";
/// `TCP_LISTEN` as /proc writes it.
const LISTEN: &str = "0A";

/// One line of the answer.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct OpenPort {
    port: u16,
    url: String,
    /// Addresses it is listened on.
    addresses: Vec<IpAddr>,
    /// Name of the program; none when this user may not see it.
    process: Option<String>,
    pid: Option<u32>,
    via: Via,
}

/// How traffic from outside gets to a port.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Via {
    /// The host dials the guest's address.
    Direct,
    /// envd makes the connection inside.
    Loopback,
}

/// A listening socket.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    address: IpAddr,
    port: u16,
    inode: u64,
}

/// Prints the open ports to standard output: a table, or JSON with one object for each.
///
/// # Errors
/// Not in a sandbox, or one that was not told its id.
pub fn print(run_dir: &Path, domain: Option<&str>, json: bool) -> anyhow::Result<()> {
    if published(run_dir, "WRENN_SANDBOX").is_none() {
        bail!("this is not a Wrenn sandbox");
    }
    let id = published(run_dir, "WRENN_SANDBOX_ID").context("this sandbox was not told its id yet")?;
    let domain = match domain {
        Some(domain) => domain.to_owned(),
        None => published(run_dir, "WRENN_PROXY_DOMAIN").unwrap_or_else(|| DOMAIN_DEFAULT.to_owned()),
    };
    let mut sockets = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match fs::read_to_string(table) {
            Ok(text) => sockets.extend(listening(&text)),
            // A kernel without IPv6.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {table}")),
        }
    }
    let text = render(&open_ports(&sockets, &owners(Path::new("/proc")), &id, &domain), json)?;
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the list")
}

fn open_ports(sockets: &[Socket], owners: &HashMap<u64, (u32, String)>, id: &str, domain: &str) -> Vec<OpenPort> {
    let mut by_port: BTreeMap<u16, Vec<&Socket>> = BTreeMap::new();
    for socket in sockets {
        by_port.entry(socket.port).or_default().push(socket);
    }
    let open = by_port.into_iter().map(|(port, sockets)| {
        let mut addresses: Vec<IpAddr> = sockets.iter().map(|socket| socket.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let (pid, process) = sockets.iter().find_map(|socket| owners.get(&socket.inode)).cloned().unzip();
        let is_direct = addresses.iter().any(|address| !address.is_loopback());
        let via = if is_direct { Via::Direct } else { Via::Loopback };
        OpenPort { port, url: format!("{}://{port}-{id}.{domain}", scheme(domain)), addresses, process, pid, via }
    });
    open.collect()
}

/// Names below localhost are of this very machine's users: nobody ends TLS there.
fn scheme(domain: &str) -> &'static str {
    let name = domain.split(':').next().unwrap_or_default();
    if name == "localhost" || name.ends_with(".localhost") { "http" } else { "https" }
}

fn render(open: &[OpenPort], json: bool) -> anyhow::Result<String> {
    if json {
        return Ok(serde_json::to_string(open)? + "\n");
    }
    if open.is_empty() {
        return Ok("No open ports.\n".to_owned());
    }
    let mut text = format!("{:<5} {:<15} {:<20} {:<8} URL\n", "PORT", "PROCESS", "ADDRESS", "VIA");
    for open in open {
        let addresses: Vec<String> = open.addresses.iter().map(IpAddr::to_string).collect();
        let via = match open.via {
            Via::Direct => "direct",
            Via::Loopback => "loopback",
        };
        let process = open.process.as_deref().unwrap_or("-");
        text += &format!("{:<5} {process:<15} {:<20} {via:<8} {}\n", open.port, addresses.join(","), open.url);
    }
    Ok(text)
}

/// Reads a fact that `/init` gave: processes inherit it, and others find it in a file.
fn published(run_dir: &Path, name: &str) -> Option<String> {
    let inherited = std::env::var(name).ok();
    let text = inherited.or_else(|| fs::read_to_string(run_dir.join(format!(".{name}"))).ok())?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Sockets of a table in /proc/net that can be reached from outside: on every address or the guest's own directly, on a loopback
/// one through envd. Not envd's own.
fn listening(table: &str) -> Vec<Socket> {
    let sockets = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next()?, fields.nth(1)?);
        let (address, port) = local.split_once(':')?;
        let (address, port) = (parse_address(address)?, u16::from_str_radix(port, 16).ok()?);
        let inode = fields.nth(5).and_then(|inode| inode.parse().ok()).unwrap_or(0);
        let dialled = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(GUEST_ADDR)];
        let is_reachable = address.is_unspecified() || dialled.contains(&address);
        (state == LISTEN && is_reachable && port != PORT).then_some(Socket { address, port, inode })
    });
    sockets.collect()
}

/// Finds the holder of each socket, among the processes this user may inspect.
fn owners(proc: &Path) -> HashMap<u64, (u32, String)> {
    let mut owners = HashMap::new();
    let processes = fs::read_dir(proc).into_iter().flatten().flatten();
    for process in processes {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // Ended meanwhile, or somebody else's.
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        for descriptor in descriptors.flatten() {
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            let inode = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode {
                // Names are the program's own words: nothing of them may reach a terminal's controls.
                let plain = name.trim_end().chars().filter(|c| !c.is_control()).collect();
                owners.entry(inode).or_insert((pid, plain));
            }
        }
    }
    owners
}

/// Words of 32 bits, each printed as the number it is in this machine's byte order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let words = hex.as_bytes().chunks(8).map(|word| {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let bytes: Vec<u8> = words.collect::<Option<Vec<_>>>()?.concat();
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn only_reachable_listeners_are_found() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let rest = "00000000:00000000 00:00000000 00000000     0        0";
        let four = format!(
            "{head}   0: 00000000:1F40 00000000:0000 0A {rest} 71 1\n   1: 0100007F:1F41 00000000:0000 0A {rest} 72 1\n\
             2: 0100007F:1F42 0100007F:9999 01 {rest} 73 1\n   3: 1500FEA9:1F43 00000000:0000 0A {rest} 74 1\n\
             4: 00000000:C33F 00000000:0000 0A {rest} 75 1\n   5: 0200007F:1F44 00000000:0000 0A {rest} 76 1\nbroken\n"
        );
        let found: Vec<_> = listening(&four).into_iter().map(|socket| (socket.port, socket.inode)).collect();
        assert_eq!(found, [(8000, 71), (8001, 72), (8003, 74)]);
        let six = format!(
            "{head}   0: 00000000000000000000000000000000:1F44 0:0 0A {rest} 81\n\
             1: 00000000000000000000000001000000:1F45 0:0 0A {rest} 82\n\
             2: 000080FE000000000000000001000000:1F46 0:0 0A {rest} 83\n"
        );
        let found: Vec<_> = listening(&six).into_iter().map(|socket| (socket.port, socket.inode)).collect();
        assert_eq!(found, [(8004, 81), (8005, 82)]);
    }

    #[test]
    fn a_listener_of_this_process_is_known_to_be_its_own() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sockets = listening(&fs::read_to_string("/proc/net/tcp").unwrap());
        let socket = sockets.iter().find(|socket| socket.port == port).expect("it listens");
        assert_eq!(owners(Path::new("/proc"))[&socket.inode].0, std::process::id());
    }

    #[test]
    fn ports_are_shown_to_people_and_programs() {
        let socket = |address: &str, port, inode| Socket { address: address.parse().unwrap(), port, inode };
        let sockets = [socket("::1", 81, 3), socket("0.0.0.0", 80, 1), socket("::", 80, 2), socket("127.0.0.1", 81, 4)];
        let owners = HashMap::from([(2, (7, "nginx".to_owned()))]);
        let open = open_ports(&sockets, &owners, "cl-1", "x");
        assert_eq!(
            render(&open, false).unwrap(),
            "PORT  PROCESS         ADDRESS              VIA      URL\n\
             80    nginx           0.0.0.0,::           direct   https://80-cl-1.x\n\
             81    -               127.0.0.1,::1        loopback https://81-cl-1.x\n"
        );
        assert_eq!(
            render(&open[..1], true).unwrap(),
            "[{\"port\":80,\"url\":\"https://80-cl-1.x\",\"addresses\":[\"0.0.0.0\",\"::\"],\"process\":\"nginx\",\"pid\":7,\"via\":\"direct\"}]\n"
        );
        assert_eq!(render(&[], false).unwrap(), "No open ports.\n");
        assert_eq!(render(&[], true).unwrap(), "[]\n");
        let local = open_ports(&sockets[1..2], &owners, "cl-1", "localhost:8000");
        assert_eq!(local[0].url, "http://80-cl-1.localhost:8000");
    }
}
