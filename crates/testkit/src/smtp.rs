//! A real mail server (aiosmtpd) on loopback, which takes mails and tells what they said.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const SCRIPT: &str = include_str!("smtpd.py");
/// Starting a Python on a machine that is busy.
const START_MAX: Duration = Duration::from_secs(30);

/// The server; it ends with this.
#[derive(Debug)]
pub struct MailServer {
    port: u16,
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

/// How a mail server is asked to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct MailServerKind<'a> {
    /// 0: a free port.
    pub port: u16,
    /// Certificate and key (PEM files): STARTTLS, and nothing without it.
    pub tls: Option<(&'a Path, &'a Path)>,
    /// Name and password: nothing without them.
    pub login: Option<(&'a str, &'a str)>,
}

/// A mail the server took, as Python's mail parser reads it.
#[derive(Debug, Clone, Deserialize)]
pub struct TakenMail {
    pub from: String,
    /// Recipients of the envelope.
    pub to: Vec<String>,
    pub tls: bool,
    pub login: Option<String>,
    /// In order, unfolded and decoded.
    pub headers: Vec<(String, String)>,
    /// Content type of the whole.
    pub kind: String,
    pub parts: Vec<MailPart>,
    /// Bytes of the longest line.
    pub line_max: usize,
    pub is_ascii: bool,
}

/// A part of a mail.
#[derive(Debug, Clone, Deserialize)]
pub struct MailPart {
    pub kind: String,
    pub encoding: String,
    pub text: String,
}

impl MailServer {
    /// Starts one. Panics with what to do when there is no aiosmtpd.
    pub async fn start(kind: MailServerKind<'_>) -> Self {
        let mut asked = json!({"port": kind.port});
        if let Some((cert, key)) = kind.tls {
            asked["cert"] = json!(cert);
            asked["key"] = json!(key);
        }
        if let Some((name, password)) = kind.login {
            asked["login"] = json!([name, password]);
        }
        let mut child = Command::new("/usr/bin/python3")
            .args(["-c", SCRIPT, &asked.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("python3 starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let first = tokio::time::timeout(START_MAX, lines.next_line()).await.expect("the mail server starts in time");
        let first = first.expect("readable").expect("no mail server: install python3-aiosmtpd (scripts/setup.sh)");
        let first: Value = serde_json::from_str(&first).expect("JSON");
        let port = first["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
        Self { port, lines, _child: child }
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next mail it takes. Panics after `bound`.
    pub async fn next(&mut self, bound: Duration) -> TakenMail {
        let line = tokio::time::timeout(bound, self.lines.next_line()).await.expect("a mail comes in time");
        serde_json::from_str(&line.expect("readable").expect("the mail server lives")).expect("a mail")
    }

    /// Mails it took and nobody asked for yet, when none has come for `quiet`.
    pub async fn rest(&mut self, quiet: Duration) -> Vec<TakenMail> {
        let mut mails = Vec::new();
        while let Ok(line) = tokio::time::timeout(quiet, self.lines.next_line()).await {
            mails.push(serde_json::from_str(&line.expect("readable").expect("it lives")).expect("a mail"));
        }
        mails
    }
}

impl TakenMail {
    /// A header that is there once.
    pub fn header(&self, name: &str) -> &str {
        let mut found = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str()).unwrap_or_default();
        assert!(found.next().is_none(), "{name} is there twice: {:?}", self.headers);
        value
    }

    /// The text part.
    pub fn text(&self) -> &str {
        self.parts.iter().find(|part| part.kind == "text/plain").map(|part| part.text.as_str()).unwrap_or_default()
    }
}
