//! What marks everything one agent makes on a machine: four hex digits and an address range, kept so that two agents can
//! share a machine and a new process recognises its predecessor's things.

use std::net::Ipv4Addr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use wrenn_linux::files;
use wrenn_linux::links::{Links, LinksError};

/// Name of the file in an agent's directory.
pub const FILE: &str = "instance";
/// Ranges are taken from 10.64.0.0/10.
const FIRST: u32 = u32::from_be_bytes([10, 64, 0, 0]);
const RANGES: u32 = 64;

/// The marks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    id: String,
    network: Ipv4Addr,
}

/// The marks could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    #[error("could not read or write {path}")]
    File { path: String, source: std::io::Error },
    #[error(
        "{path} is damaged: it should hold an instance id and a /16; restore it, or remove it when nothing of this agent runs"
    )]
    Damaged { path: String },
    #[error("could not read this machine's routes")]
    Routes(#[from] LinksError),
    #[error("every /16 of 10.64.0.0/10 has a route already: set WRENN_NETWORK_RANGE to a free private /16")]
    NoRange,
    #[error("no random numbers to be had")]
    Random,
}

impl Instance {
    /// Reads them, or makes them at the first start.
    ///
    /// # Errors
    /// The file is damaged or cannot be written, no /16 is free, or there are no random numbers.
    pub async fn load(dir: &Path, wanted: Option<Ipv4Addr>) -> Result<Self, InstanceError> {
        let path = dir.join(FILE);
        let shown = path.display().to_string();
        match std::fs::read(&path) {
            Ok(bytes) => {
                let kept: Self =
                    serde_json::from_slice(&bytes).map_err(|_| InstanceError::Damaged { path: shown.clone() })?;
                let sound = kept.id.len() == 4 && kept.id.bytes().all(|b| b.is_ascii_hexdigit());
                if !sound {
                    return Err(InstanceError::Damaged { path: shown });
                }
                Ok(Self { network: wanted.unwrap_or(kept.network), ..kept })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let made = Self::make(wanted).await?;
                let bytes = serde_json::to_vec(&made).map_err(|_| InstanceError::Damaged { path: shown.clone() })?;
                files::replace(&path, &bytes).map_err(|source| InstanceError::File { path: shown, source })?;
                Ok(made)
            }
            Err(source) => Err(InstanceError::File { path: shown, source }),
        }
    }

    async fn make(wanted: Option<Ipv4Addr>) -> Result<Self, InstanceError> {
        let mut random = [0u8; 2];
        getrandom::fill(&mut random).map_err(|_| InstanceError::Random)?;
        let network = match wanted {
            Some(network) => network,
            None => {
                let routes = Links::here()?.ipv4_routes().await?;
                free_range(&routes, u32::from(random[0])).ok_or(InstanceError::NoRange)?
            }
        };
        Ok(Self { id: hex::encode(random), network })
    }

    /// Makes the marks of an instance that a test plays.
    #[cfg(test)]
    pub fn for_tests(id: String, network: Ipv4Addr) -> Self {
        Self { id, network }
    }

    /// Four hex digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// First address of this agent's /16.
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }
}

/// Finds a /16 that no route overlaps, from number `start` on.
fn free_range(routes: &[(Ipv4Addr, u8)], start: u32) -> Option<Ipv4Addr> {
    (0..RANGES).map(|step| FIRST + (((start + step) % RANGES) << 16)).find_map(|base| {
        let overlaps = routes.iter().any(|(network, prefix)| {
            let shared = u32::from(*prefix).min(16);
            shared > 0 && (u32::from(*network) ^ base) >> (32 - shared) == 0
        });
        (!overlaps).then(|| Ipv4Addr::from(base))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_with_a_route_is_never_chosen() {
        let ten = |b: u8, c: u8| Ipv4Addr::new(10, b, c, 0);
        assert_eq!(free_range(&[], 0), Some(ten(64, 0)));
        assert_eq!(free_range(&[(ten(64, 7), 24)], 0), Some(ten(65, 0)));
        assert_eq!(free_range(&[(ten(64, 0), 12)], 3), Some(ten(80, 0)));
        assert_eq!(free_range(&[(Ipv4Addr::new(10, 0, 0, 0), 8)], 3), None);
    }
}
