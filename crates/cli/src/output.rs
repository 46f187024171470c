//! What people and programs read: tables and sentences, or JSON. Results go to stdout, everything else to stderr.

use std::io::{ErrorKind, IsTerminal, Write};
use std::string::FromUtf8Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::io::AsyncWriteExt;

use crate::api::ApiError;
pub use crate::text::{moment, plain, table};

/// How the outcome of a command is shown.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    /// JSON for programs, or text for people.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// True when stdout is for programs.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a result: `value` as JSON, or the text.
    pub fn result<T: Serialize>(&self, value: &T, text: impl FnOnce() -> String) {
        let line = if self.json {
            serde_json::to_string_pretty(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
        } else {
            text()
        };
        print(&line);
    }

    /// Prints a remark for people; silent with `--json`.
    pub fn note(&self, text: &str) {
        if !self.json {
            // Nothing could be done if this cannot be written.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Prints what is wrong with the arguments.
    pub fn usage(&self, message: &str) {
        self.print_failure("usage", message, None);
    }

    /// Prints why the command failed and what to do.
    pub fn failure(&self, error: &anyhow::Error) {
        let Some(api) = error.downcast_ref::<ApiError>() else {
            return self.print_failure("client_error", &format!("{error:#}"), None);
        };
        self.print_failure(api.code(), &format!("{error:#}"), api.request_id());
    }

    fn print_failure(&self, code: &str, message: &str, request_id: Option<&str>) {
        if self.json {
            let error = serde_json::json!({"error": {"code": code, "message": message, "request_id": request_id}});
            let _ = writeln!(std::io::stderr(), "{error}");
            return;
        }
        let _ = writeln!(std::io::stderr(), "wrenn: {message}");
        if let Some(id) = request_id {
            let _ = writeln!(std::io::stderr(), "       (request {id})");
        }
    }

    /// A spinner for waits; hidden when stderr is no terminal or JSON is wanted.
    pub fn spinner(&self, text: &str) -> ProgressBar {
        let bar = ProgressBar::new_spinner().with_message(text.to_owned());
        self.show(bar)
    }

    /// A bar for a transfer of `bytes`, or a counter when the size is not known.
    pub fn transfer(&self, text: &str, bytes: Option<u64>) -> ProgressBar {
        let (bar, template) = match bytes {
            Some(total) => (ProgressBar::new(total), "{msg} {bar:24} {bytes}/{total_bytes} {bytes_per_sec} {eta}"),
            None => (ProgressBar::new_spinner(), "{spinner} {msg} {bytes} {bytes_per_sec}"),
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.show(bar.with_style(style).with_message(text.to_owned()))
    }

    fn show(&self, bar: ProgressBar) -> ProgressBar {
        if self.json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }
}

/// Whether a result could not be printed. It belongs to the process, as standard output does.
static UNPRINTED: AtomicBool = AtomicBool::new(false);

/// Prints a line of results. A reader who has enough (`wrenn ... | head`) is no failure; a full disk is: see [`is_unprinted`].
pub fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        Err(error) => {
            if !UNPRINTED.swap(true, Ordering::Relaxed) {
                // Nothing could be done if this cannot be written either.
                let _ = writeln!(std::io::stderr(), "wrenn: could not write the output: {error}");
            }
        }
    }
}

/// Whether some result was lost because it could not be printed: the process then fails, whatever else it did.
pub fn is_unprinted() -> bool {
    UNPRINTED.load(Ordering::Relaxed)
}

/// Exit code when nobody reads the output any more: 128 + SIGPIPE, as shells report a program that was ended by it.
const READER_GONE: u8 = 141;

/// Passes bytes of a command or file on. An exit code when nobody reads them any more, which is no failure.
///
/// # Errors
/// They cannot be written: the disk is full, say.
pub async fn write(to: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) -> anyhow::Result<Option<u8>> {
    let written = async {
        to.write_all(bytes).await?;
        to.flush().await
    };
    match written.await {
        Ok(()) => Ok(None),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Some(READER_GONE)),
        Err(error) => Err(error).context("could not write the output here"),
    }
}

/// Two streams for JSON: as they are, or both in base64 (and true) when either is no text.
pub fn as_text(out: Vec<u8>, err: Vec<u8>) -> (String, String, bool) {
    let bytes = |text: Result<String, FromUtf8Error>| text.map_or_else(FromUtf8Error::into_bytes, String::into_bytes);
    match (String::from_utf8(out), String::from_utf8(err)) {
        (Ok(out), Ok(err)) => (out, err, false),
        (out, err) => {
            let base64 = &base64::engine::general_purpose::STANDARD;
            (base64.encode(bytes(out)), base64.encode(bytes(err)), true)
        }
    }
}
