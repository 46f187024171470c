//! `wrenn cp`: files and folders, both ways. One side is a path here or `-`, the other `ID:PATH`.
//!
//! One law for all of it: what cannot be copied is named and the rest goes on; what changed while it was copied is named; a copy counts
//! only when the other end has confirmed it; nothing that leads elsewhere (a device, link or named pipe) is replaced; nobody can read a
//! copy who could not read the source.
//!
//! A file travels through the files API. A folder travels as one tar stream through a command in the capsule, so that thousands of small
//! files cost one round trip; what comes out of a capsule is unpacked as hostile ([`unpack`]).

mod download;
mod pack;
mod remote;
mod report;
mod target;
mod unpack;
mod upload;

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use super::ending;
use crate::api::Client;
use crate::output::Output;
use remote::Remote;
use report::Report;

#[derive(Debug, Args)]
pub struct CpArgs {
    /// File or folder here, `-` for standard input, or ID:PATH in a capsule.
    source: String,
    /// Where to: a path here, `-` for standard output, or ID:PATH. An existing folder receives the source below it.
    destination: String,
    /// Guest user to read or write as; the template's default user when absent.
    #[arg(long, short = 'u', value_name = "NAME")]
    user: Option<String>,
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    Here(PathBuf),
    /// Standard input or output.
    Stream,
    Capsule {
        id: String,
        path: String,
    },
}

impl Side {
    /// `cl-...:path` is in a capsule and `-` a stream; everything else is here.
    fn parse(text: &str) -> anyhow::Result<Self> {
        match text.split_once(':') {
            Some((id, path)) if id.starts_with("cl-") => {
                let id = super::arguments::capsule_id(id).map_err(anyhow::Error::msg)?;
                let path = if path.is_empty() { "." } else { path };
                Ok(Self::Capsule { id, path: path.to_owned() })
            }
            _ if text == "-" => Ok(Self::Stream),
            _ => Ok(Self::Here(PathBuf::from(text))),
        }
    }
}

/// Copies. The number is 1 when something could not be copied while the rest was.
///
/// # Errors
/// Nothing, or not the whole of one file, could be copied.
pub async fn run(args: CpArgs, client: &Client, output: &Output) -> anyhow::Result<u8> {
    let (from, to) = (Side::parse(&args.source)?, Side::parse(&args.destination)?);
    let capsule = match (&from, &to) {
        (Side::Capsule { id, .. }, _) | (_, Side::Capsule { id, .. }) => Some(id.clone()),
        _ => None,
    };
    match (copy(from, to, args.user, client, output).await, capsule) {
        (Err(error), Some(id)) => Err(ending::explained(client, &id, error).await),
        (done, _) => done,
    }
}

async fn copy(from: Side, to: Side, user: Option<String>, client: &Client, output: &Output) -> anyhow::Result<u8> {
    let remote = |id, path| Remote { client, id, path, user };
    let report = match (from, to) {
        (Side::Here(from), Side::Capsule { id, path }) => upload::run(&from, remote(id, path), output).await?,
        (Side::Stream, Side::Capsule { id, path }) => upload::stdin(remote(id, path), output).await?,
        (Side::Capsule { id, path }, Side::Here(to)) => download::run(remote(id, path), &to, output).await?,
        (Side::Capsule { id, path }, Side::Stream) => return download::stdout(remote(id, path)).await,
        (Side::Here(_) | Side::Stream, Side::Here(_) | Side::Stream) => {
            bail!("one side must be in a capsule: ID:PATH")
        }
        (Side::Capsule { .. }, Side::Capsule { .. }) => {
            bail!("one side must be here: copy to this machine first, then to the other capsule")
        }
    };
    Ok(finish(&report, output))
}

fn finish(report: &Report, output: &Output) -> u8 {
    output.result(report, || format!("{} copied", indicatif::BinaryBytes(report.bytes)));
    u8::from(report.has_failures())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_a_capsule_a_stream_or_a_path() {
        let id = "cl-0000000000000000000000000";
        let capsule = |path: &str| Side::Capsule { id: id.into(), path: path.into() };
        for (text, expected) in [
            (format!("{id}:a b"), capsule("a b")),
            (format!("{id}:"), capsule(".")),
            (format!("{id}:/x:y"), capsule("/x:y")),
            ("-".to_owned(), Side::Stream),
            ("./-".to_owned(), Side::Here("./-".into())),
            ("a:b".to_owned(), Side::Here("a:b".into())),
        ] {
            assert_eq!(Side::parse(&text).unwrap(), expected, "{text}");
        }
        assert!(Side::parse("cl-short:x").is_err());
    }
}
