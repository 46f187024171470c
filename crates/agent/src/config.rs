//! The only reader of environment and `.env`. A bad value is an error that names it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use wrenn_domain::settings;
use wrenn_vmm::{VmmChoice, VmmConfig};

use crate::network::Bounds;

/// Every variable this program reads. `.env.example` explains each.
pub const SETTINGS: &[&str] = &[
    "LOG_LEVEL",
    "WRENN_ALLOW_TCG",
    "WRENN_DIR",
    "WRENN_DNS",
    "WRENN_EGRESS_ALLOW",
    "WRENN_FAULTS",
    "WRENN_GUEST_FLOWS",
    "WRENN_GUEST_MBIT_PER_SECOND",
    "WRENN_GUEST_PACKETS_PER_SECOND",
    "WRENN_HOST_LISTEN_ADDR",
    "WRENN_HOST_TOKEN",
    "WRENN_NETWORK_RANGE",
    "WRENN_PREPARE_MEMORY",
    "WRENN_PROXY_DOMAIN",
    "WRENN_QEMU_BIN",
    "WRENN_SLOT_POOL",
    "WRENN_SPARE_VMS",
    "WRENN_STORE_SIZE",
    "WRENN_VMM",
];

/// Name servers of guests when none are set.
const DNS_DEFAULT: &str = "1.1.1.1,8.8.8.8";
/// Ready networks kept in stock when nothing is set: two creates at once find theirs made.
const SLOT_POOL_DEFAULT: usize = 2;
const SLOT_POOL_MAX: usize = 256;
/// Guests loaded ahead of time at most when nothing is set. Each costs its VMM's own memory, some 30 MiB, and no processor time.
const WARM_VMS_DEFAULT: usize = 4;

/// Settings of the agent.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    pub dir: PathBuf,
    pub log_level: String,
    /// Shared with the control plane; `None` only on loopback.
    pub token: Option<String>,
    /// VMM to start machines with.
    pub vmm: VmmChoice,
    /// QEMU's program.
    pub qemu: PathBuf,
    /// Serve although guests run in software emulation, which is no wall against them.
    pub allow_software: bool,
    pub dns: Vec<IpAddr>,
    /// A /16 for the links between host and namespaces; chosen by the agent when absent.
    pub network: Option<Ipv4Addr>,
    /// Destinations guests may reach although they are private.
    pub egress_allow: Vec<(Ipv4Addr, u8)>,
    /// Bytes of the store file, where the disk cannot share blocks; a share of the free space when absent.
    pub store_bytes: Option<u64>,
    pub slot_pool: usize,
    /// Share of one guest in the host's network.
    pub bounds: Bounds,
    /// Guests loaded ahead of time at most; how many there are follows what is asked for.
    pub warm_vms_max: usize,
    pub proxy_domain: String,
    /// Templates get their memory ahead of time, in this many MiB with one vCPU; empty: on first use only.
    pub prepare_mib: Vec<u32>,
    /// For fault tests: `{dir}/fault` may name a step at which to die.
    pub faults: bool,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{name}={value:?}: {expected}")]
pub struct ConfigError {
    name: String,
    value: String,
    expected: String,
}

impl Config {
    /// Reads `.env` of the working directory and the environment, which wins.
    ///
    /// # Errors
    /// When a value cannot be used, or a variable that begins with WRENN_ is no setting.
    pub fn load() -> Result<Self, ConfigError> {
        // A missing file is normal; a broken line in it shows when a setting is then missing.
        let _ = dotenvy::dotenv();
        refuse_unknown(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))?;
        Self::read(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// Makes the settings of an agent in `dir` that prepares one memory size ahead of time.
    #[cfg(test)]
    pub fn for_tests(dir: &Path) -> Self {
        let dir = dir.display().to_string();
        let set = move |name: &str| match name {
            "WRENN_DIR" => Some(dir.clone()),
            "WRENN_PREPARE_MEMORY" => Some("128".to_owned()),
            _ => None,
        };
        Self::read(set).expect("these are settings")
    }

    /// Settings of the VMM, for an owner whose files are in this directory.
    pub fn vmm(&self, owner: &Path) -> VmmConfig {
        VmmConfig { choice: self.vmm, qemu: self.qemu.clone(), owner: owner.to_owned() }
    }

    /// Whether this can be served: without a token only this machine may call.
    ///
    /// # Errors
    /// The address can be reached by others and no token is set.
    pub fn check_served(&self) -> Result<(), ConfigError> {
        if self.token.is_some() || self.listen.ip().is_loopback() {
            return Ok(());
        }
        Err(ConfigError {
            name: "WRENN_HOST_TOKEN".to_owned(),
            value: String::new(),
            expected: format!(
                "must be set, because {} can be reached by others: set it here and at the control plane, or listen on 127.0.0.1",
                self.listen
            ),
        })
    }

    fn read(read: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let get = |name: &str| {
            debug_assert!(SETTINGS.contains(&name), "{name} is missing in SETTINGS");
            read(name)
        };
        let listen = parse("WRENN_HOST_LISTEN_ADDR", get("WRENN_HOST_LISTEN_ADDR"), ":50051", listen_address)?;
        let config = Self {
            listen,
            dir: parse("WRENN_DIR", get("WRENN_DIR"), "/var/lib/wrenn", absolute)?,
            log_level: parse("LOG_LEVEL", get("LOG_LEVEL"), "info", level)?,
            token: get("WRENN_HOST_TOKEN"),
            vmm: parse("WRENN_VMM", get("WRENN_VMM"), "auto", str::parse)?,
            qemu: parse("WRENN_QEMU_BIN", get("WRENN_QEMU_BIN"), "/usr/bin/qemu-system-x86_64", absolute)?,
            allow_software: parse("WRENN_ALLOW_TCG", get("WRENN_ALLOW_TCG"), "off", switch)?,
            dns: parse("WRENN_DNS", get("WRENN_DNS"), DNS_DEFAULT, name_servers)?,
            network: optional("WRENN_NETWORK_RANGE", get("WRENN_NETWORK_RANGE"), range16)?,
            egress_allow: parse("WRENN_EGRESS_ALLOW", get("WRENN_EGRESS_ALLOW"), "", networks)?,
            store_bytes: optional("WRENN_STORE_SIZE", get("WRENN_STORE_SIZE"), bytes)?,
            slot_pool: parse("WRENN_SLOT_POOL", get("WRENN_SLOT_POOL"), &SLOT_POOL_DEFAULT.to_string(), pool)?,
            warm_vms_max: parse("WRENN_SPARE_VMS", get("WRENN_SPARE_VMS"), &WARM_VMS_DEFAULT.to_string(), pool)?,
            proxy_domain: get("WRENN_PROXY_DOMAIN").unwrap_or_else(|| "localhost".to_owned()),
            prepare_mib: parse("WRENN_PREPARE_MEMORY", get("WRENN_PREPARE_MEMORY"), "512", sizes)?,
            bounds: Bounds {
                packets_per_second: parse(
                    "WRENN_GUEST_PACKETS_PER_SECOND",
                    get("WRENN_GUEST_PACKETS_PER_SECOND"),
                    "100000",
                    packets,
                )?,
                bytes_per_second: parse(
                    "WRENN_GUEST_MBIT_PER_SECOND",
                    get("WRENN_GUEST_MBIT_PER_SECOND"),
                    "2000",
                    megabits,
                )?,
                flows: parse("WRENN_GUEST_FLOWS", get("WRENN_GUEST_FLOWS"), "2048", flows)?,
            },
            faults: parse("WRENN_FAULTS", get("WRENN_FAULTS"), "off", switch)?,
        };
        Ok(config)
    }
}

/// A variable with our prefix that no program reads is most likely a misspelt one, whose value would silently count for nothing.
fn refuse_unknown(mut names: impl Iterator<Item = String>) -> Result<(), ConfigError> {
    let Some(name) = names.find(|name| settings::is_unknown(name)) else { return Ok(()) };
    let expected = format!("it {}", settings::refusal_of_unknown(&name));
    Err(ConfigError { name, value: "...".to_owned(), expected })
}

fn parse<T>(
    name: &'static str,
    given: Option<String>,
    default: &str,
    read: fn(&str) -> Result<T, String>,
) -> Result<T, ConfigError> {
    let value = given.unwrap_or_else(|| default.to_owned());
    read(&value).map_err(|expected| ConfigError { name: name.to_owned(), value, expected })
}

fn optional<T>(
    name: &'static str,
    given: Option<String>,
    read: fn(&str) -> Result<T, String>,
) -> Result<Option<T>, ConfigError> {
    given
        .map(|value| read(&value).map_err(|expected| ConfigError { name: name.to_owned(), value, expected }))
        .transpose()
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.replace("localhost", "127.0.0.1") };
    full.parse().map_err(|_| "expected an address like :50051 or 127.0.0.1:50051".to_owned())
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("expected an absolute path".to_owned()) }
}

fn level(text: &str) -> Result<String, String> {
    if matches!(text, "debug" | "info" | "warn" | "error") {
        return Ok(text.to_owned());
    }
    Err("expected debug, info, warn or error".to_owned())
}

fn name_servers(text: &str) -> Result<Vec<IpAddr>, String> {
    let expected = || "expected one to three addresses, separated by commas".to_owned();
    let servers: Vec<IpAddr> =
        text.split(',').map(|part| IpAddr::from_str(part.trim())).collect::<Result<_, _>>().map_err(|_| expected())?;
    if servers.is_empty() || servers.len() > 3 { Err(expected()) } else { Ok(servers) }
}

fn network(text: &str) -> Result<(Ipv4Addr, u8), String> {
    let expected = || "expected networks like 192.168.1.0/24, separated by commas".to_owned();
    let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
    let prefix: u8 = prefix.parse().map_err(|_| expected())?;
    if prefix > 32 {
        return Err(expected());
    }
    Ok((address.parse().map_err(|_| expected())?, prefix))
}

fn networks(text: &str) -> Result<Vec<(Ipv4Addr, u8)>, String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(network).collect()
}

fn range16(text: &str) -> Result<Ipv4Addr, String> {
    match network(text) {
        Ok((address, 16)) if address.octets()[2..] == [0, 0] && address.is_private() => Ok(address),
        _ => Err("expected a private /16 like 10.77.0.0/16".to_owned()),
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    const MIN: u64 = 2 << 30;
    let expected = || "expected a size of at least 2Gi, like 100Gi or 2Ti".to_owned();
    let (number, unit) = [("Gi", 30u32), ("Ti", 40), ("Mi", 20)]
        .into_iter()
        .find_map(|(suffix, shift)| Some((text.strip_suffix(suffix)?, shift)))
        .ok_or_else(expected)?;
    let size = number.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << unit)).ok_or_else(expected)?;
    if size < MIN { Err(expected()) } else { Ok(size) }
}

fn pool(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if size <= SLOT_POOL_MAX => Ok(size),
        _ => Err(format!("expected a number from 0 to {SLOT_POOL_MAX}")),
    }
}

fn between(text: &str, least: u32, most: u32) -> Result<u32, String> {
    match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("expected a number from {least} to {most}")),
    }
}

fn packets(text: &str) -> Result<u32, String> {
    between(text, 100, 100_000_000)
}

/// Returns bytes per second; the kernel refuses limits of more than some 140 Gbit/s.
fn megabits(text: &str) -> Result<u64, String> {
    between(text, 1, 100_000).map(|megabits| u64::from(megabits) * 1_000_000 / 8)
}

fn flows(text: &str) -> Result<u32, String> {
    between(text, 16, 1_000_000)
}

/// Sizes templates are prepared in; "none" for none.
fn sizes(text: &str) -> Result<Vec<u32>, String> {
    const MOST: usize = 8;
    let expected = || format!("expected \"none\" or up to {MOST} memory sizes in MiB, separated by commas");
    if text == "none" {
        return Ok(Vec::new());
    }
    let sizes: Vec<u32> = text
        .split(',')
        .map(|part| {
            let mib = part.trim().parse::<u32>().map_err(|_| expected())?;
            wrenn_domain::sizes::MemoryMib::parse(i64::from(mib)).map(|size| size.get()).map_err(|_| expected())
        })
        .collect::<Result<_, _>>()?;
    if sizes.len() > MOST { Err(expected()) } else { Ok(sizes) }
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("expected on or off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::read(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_misspelt_setting_is_refused_by_its_name_and_those_of_other_programs_pass() {
        let judged = |names: &[&str]| refuse_unknown(names.iter().map(|name| (*name).to_owned()));
        let error = judged(&["PATH", "WRENN_SLOTPOOL"]).unwrap_err().to_string();
        assert!(error.contains("WRENN_SLOTPOOL") && error.contains("WRENN_SLOT_POOL?"), "{error}");
        assert!(judged(&["WRENN_CP_LISTEN_ADDR", "WRENN_API_KEY", "WRENN_TEST_POWER", "HOME"]).is_ok());
        for name in SETTINGS.iter().filter(|name| name.starts_with("WRENN_")) {
            assert!(settings::KNOWN.contains(name), "{name} is unknown to other programs");
        }
    }

    #[test]
    fn a_bad_value_is_named_and_never_replaced_by_a_default() {
        let token = ("WRENN_HOST_TOKEN", "secret");
        for (name, value) in [
            ("WRENN_HOST_LISTEN_ADDR", "nonsense"),
            ("WRENN_DIR", "relative"),
            ("LOG_LEVEL", "loud"),
            ("WRENN_DNS", "1.1.1.1,2.2.2.2,3.3.3.3,4.4.4.4"),
            ("WRENN_DNS", "one"),
            ("WRENN_NETWORK_RANGE", "10.1.2.0/24"),
            ("WRENN_NETWORK_RANGE", "8.8.0.0/16"),
            ("WRENN_EGRESS_ALLOW", "10.0.0.0/33"),
            ("WRENN_STORE_SIZE", "12"),
            ("WRENN_STORE_SIZE", "99999999999Ti"),
            ("WRENN_SLOT_POOL", "-1"),
            ("WRENN_PREPARE_MEMORY", "512,1"),
            ("WRENN_FAULTS", "perhaps"),
            ("WRENN_ALLOW_TCG", "1"),
            ("WRENN_GUEST_FLOWS", "0"),
            ("WRENN_GUEST_MBIT_PER_SECOND", "0"),
            ("WRENN_GUEST_PACKETS_PER_SECOND", "many"),
            ("WRENN_VMM", "bochs"),
        ] {
            let error = read(&[token, (name, value)]).expect_err(value);
            assert!(error.to_string().starts_with(name), "{error}");
        }
        assert!(read(&[token]).is_ok());
    }

    #[test]
    fn without_a_token_only_loopback_is_served() {
        assert!(read(&[]).unwrap().check_served().is_err());
        assert!(read(&[("WRENN_HOST_LISTEN_ADDR", "localhost:50051")]).unwrap().check_served().is_ok());
    }
}
