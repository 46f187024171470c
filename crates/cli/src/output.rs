//! What people and programs read: tables and sentences, or JSON. Results go to stdout, everything else to stderr.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::api::ApiError;

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
        // A closed pipe (`wrenn ... | head`) is not our failure.
        let _ = writeln!(std::io::stdout(), "{line}");
    }

    /// Prints a remark for people; silent with `--json`.
    pub fn note(&self, text: &str) {
        if !self.json {
            eprintln!("{text}");
        }
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
            eprintln!("{}", serde_json::json!({"error": {"code": code, "message": message, "request_id": request_id}}));
            return;
        }
        eprintln!("wrenn: {message}");
        if let Some(id) = request_id {
            eprintln!("       (request {id})");
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

/// A moment to the minute, UTC, or what stands for none.
pub fn moment(at: Option<chrono::DateTime<chrono::Utc>>, none: &str) -> String {
    at.map_or_else(|| none.to_owned(), |at| at.format("%Y-%m-%d %H:%M").to_string())
}

/// Left-aligned columns, two blanks apart.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|h| h.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        text.trim_end().to_owned()
    };
    let mut lines = vec![line(header.to_vec())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

/// Text from a server or guest, made safe to print on a terminal: control characters become `?`.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_control_characters_do_not_reach_the_terminal() {
        let rows = vec![vec!["a".into(), "bbb".into()], vec!["cccc".into(), "d".into()]];
        assert_eq!(table(&["X", "Y"], &rows), "X     Y\na     bbb\ncccc  d");
        assert_eq!(plain("a\u{1b}[31mb"), "a?[31mb");
    }
}
