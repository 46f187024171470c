//! What can go wrong with a network.

use std::io;

use wrenn_linux::links::LinksError;
use wrenn_linux::netns::NetnsError;
use wrenn_linux::nft::NftError;

use super::plan::NUMBER_MAX;

/// A step with a network failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("all {NUMBER_MAX} network slots of this host are in use")]
    Full,
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    #[error(transparent)]
    Links(#[from] LinksError),
    #[error(transparent)]
    Rules(#[from] NftError),
    #[error("could not forget the flows of network slot {number}")]
    Flows { number: u32, source: io::Error },
    #[error("could not {act} inside namespace {namespace}")]
    Inside { act: &'static str, namespace: String, source: io::Error },
}
