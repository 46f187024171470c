//! Files over HTTP and RPC. All of these run as root, as envd does in a guest.

mod atomic;
mod conditional;
mod form;
mod full;
mod in_place;
mod large;
mod machine;
mod rights;
mod transfer;
mod tree;
mod watching;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use connectrpc::client::{ClientConfig, HttpClient};
use http::Method;
use wrenn_contract::guest::{FILES, TOKEN_HEADER};
use wrenn_contract::proto::filesystem::FilesystemClient;

use crate::envd::{Answer, Envd, TOKEN};

/// A user every Linux has, who is not root and owns nothing.
const SOMEBODY: &str = "nobody";

/// `/files` for a path, which may hold anything.
fn uri(path: impl AsRef<Path>) -> String {
    let mut uri = format!("{FILES}?path=");
    for byte in path.as_ref().to_str().expect("UTF-8").bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' => uri.push(char::from(byte)),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

async fn get(envd: &Envd, path: impl AsRef<Path>, headers: &[(&str, &str)]) -> Answer {
    envd.call(Method::GET, &uri(path), headers, Vec::new()).await
}

async fn put(envd: &Envd, path: impl AsRef<Path>, bytes: impl Into<bytes::Bytes>) -> Answer {
    envd.call(Method::PUT, &uri(path), &[], bytes).await
}

/// A client of the file system service that acts as `user`.
fn filesystem_as(envd: &Envd, user: &str) -> FilesystemClient<HttpClient> {
    let uri = format!("http://{}", envd.addr).parse().expect("a URL");
    let config = ClientConfig::new(uri)
        .with_default_header(TOKEN_HEADER, TOKEN)
        .with_default_header(wrenn_contract::guest::USER_HEADER, user);
    FilesystemClient::new(HttpClient::plaintext(), config)
}

/// A directory in envd's home that anybody may use, and whose way there is open.
fn common_ground(envd: &Envd) -> PathBuf {
    chmod(envd.home.path(), 0o755);
    let dir = envd.home.path().join("ground");
    fs::create_dir(&dir).expect("a directory");
    chmod(&dir, 0o1777);
    dir
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o7777
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

/// Open files of envd's that have no name: drafts on their way.
fn drafts(envd: &Envd) -> usize {
    let fds = fs::read_dir(format!("/proc/{}/fd", envd.pid())).into_iter().flatten().flatten();
    let home = envd.home.path().to_owned();
    fds.filter_map(|fd| fs::read_link(fd.path()).ok())
        .filter(|target| target.starts_with(&home) && target.to_string_lossy().ends_with(" (deleted)"))
        .count()
}

/// Bytes that repeat nowhere soon.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
