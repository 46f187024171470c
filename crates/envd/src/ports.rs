//! `envd ports`: which ports programs in this sandbox listen on, and where they can be reached from outside.
//!
//! Run by people and scripts in the sandbox; talks to nobody, reads /proc and the files envd wrote at `/init`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context, bail};
use serde::Serialize;
use wrenn_contract::guest::PORT;

/// Domain when neither the caller nor `/init` named one.
const DOMAIN_DEFAULT: &str = "wrenn.dev";
/// `TCP_LISTEN` as /proc writes it.
const LISTEN: &str = "0A";

/// One line of the answer.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct OpenPort {
    port: u16,
    url: String,
}

/// Prints the open ports to standard output: a table, or JSON `[{"port":8000,"url":"https://..."}]`.
///
/// # Errors
/// Not in a sandbox, or one that was not told its id.
pub fn print(run_dir: &Path, domain: Option<&str>, json: bool) -> anyhow::Result<()> {
    if told(run_dir, "WRENN_SANDBOX").is_none() {
        bail!("this is not a Wrenn sandbox");
    }
    let id = told(run_dir, "WRENN_SANDBOX_ID").context("this sandbox was not told its id yet")?;
    let domain = match domain {
        Some(domain) => domain.to_owned(),
        None => told(run_dir, "WRENN_PROXY_DOMAIN").unwrap_or_else(|| DOMAIN_DEFAULT.to_owned()),
    };
    let mut ports = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match fs::read_to_string(table) {
            Ok(text) => ports.extend(listening(&text)),
            // A kernel without IPv6.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {table}")),
        }
    }
    let open = ports.into_iter().map(|port| OpenPort { port, url: format!("https://{port}-{id}.{domain}") });
    let text = render(&open.collect::<Vec<_>>(), json)?;
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the list")
}

fn render(open: &[OpenPort], json: bool) -> anyhow::Result<String> {
    if json {
        return Ok(serde_json::to_string(open)? + "\n");
    }
    if open.is_empty() {
        return Ok("No open ports.\n".to_owned());
    }
    let lines = open.iter().map(|open| format!("{:<5} {}\n", open.port, open.url));
    Ok(format!("{:<5} URL\n", "PORT") + &lines.collect::<String>())
}

/// What `/init` told: processes inherit it, and others find it in a file.
fn told(run_dir: &Path, name: &str) -> Option<String> {
    let inherited = std::env::var(name).ok();
    let text = inherited.or_else(|| fs::read_to_string(run_dir.join(format!(".{name}"))).ok())?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Ports of a table in /proc/net that can be reached from outside: wildcard addresses directly, loopback ones through
/// the proxy in the guest. Not envd's own.
fn listening(table: &str) -> BTreeSet<u16> {
    let ports = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next()?, fields.nth(1)?);
        let (address, port) = local.split_once(':')?;
        let (address, port) = (parse_address(address)?, u16::from_str_radix(port, 16).ok()?);
        let reachable = address.is_unspecified() || address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST;
        (state == LISTEN && reachable && port != PORT).then_some(port)
    });
    ports.collect()
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
        let head = "  sl  local_address rem_address   st tx_queue rx_queue\n";
        let four = format!(
            "{head}   0: 00000000:1F40 00000000:0000 0A 0:0\n   1: 0100007F:1F41 00000000:0000 0A 0:0\n\
             2: 0100007F:1F42 0100007F:9999 01 0:0\n   3: 1500FEA9:1F43 00000000:0000 0A 0:0\n\
             4: 00000000:C33F 00000000:0000 0A 0:0\nbroken\n"
        );
        assert_eq!(listening(&four), BTreeSet::from([8000, 8001]));
        let six = format!(
            "{head}   0: 00000000000000000000000000000000:1F44 0:0 0A 0:0\n\
             1: 00000000000000000000000001000000:1F45 0:0 0A 0:0\n\
             2: 000080FE000000000000000001000000:1F46 0:0 0A 0:0\n"
        );
        assert_eq!(listening(&six), BTreeSet::from([8004, 8005]));
    }

    #[test]
    fn ports_are_shown_to_people_and_programs() {
        let open = [OpenPort { port: 80, url: "https://80-cl-1.x".into() }];
        assert_eq!(render(&open, false).unwrap(), "PORT  URL\n80    https://80-cl-1.x\n");
        assert_eq!(render(&open, true).unwrap(), "[{\"port\":80,\"url\":\"https://80-cl-1.x\"}]\n");
        assert_eq!(render(&[], false).unwrap(), "No open ports.\n");
        assert_eq!(render(&[], true).unwrap(), "[]\n");
    }
}
