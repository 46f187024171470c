//! The bytes of a process's output, with where they came from and how far each reader is. Knows no lock and wakes nobody.

use std::collections::VecDeque;

use wrenn_domain::limits::{PROCESS_AHEAD_BYTES, PROCESS_PIECE_BYTES, PROCESS_REPLAY_BYTES, PROCESS_RUNS_MAX};
use wrenn_linux::child::Exit;

/// Where bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Stdout,
    Stderr,
    Terminal,
}

/// How far a process may be ahead of its slowest reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// While it runs.
    Usual,
    /// When it has ended: what is left in its pipes, so that its end need not wait for the reader.
    Last,
}

/// One thing a reader gets.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// At most [`PROCESS_PIECE_BYTES`] of one source.
    Data(Source, Vec<u8>),
    /// Nothing yet.
    Nothing,
    /// Everything was taken and nothing will follow.
    End(End),
}

/// How a process ended; an error where the system could not tell.
pub type End = Result<Exit, String>;

/// Bytes with their sources, the readers that follow them, and the end.
#[derive(Debug, Default)]
pub(super) struct Ring {
    pub(super) bytes: VecDeque<u8>,
    /// Number of the first byte held.
    pub(super) start: u64,
    /// Bytes of one source in a row, oldest first; the last one ends where the bytes end.
    pub(super) runs: VecDeque<Run>,
    pub(super) readers: Vec<(u64, u64)>,
    pub(super) readers_seen: u64,
    pub(super) end: Option<End>,
}

/// Bytes of one source in a row.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) source: Source,
    /// Number of the byte after its last.
    pub(super) end: u64,
}

impl Ring {
    pub(super) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    pub(super) fn has_room(&self, allowance: Allowance) -> bool {
        let end = self.end();
        let times = match allowance {
            Allowance::Usual => 1,
            Allowance::Last => 2,
        };
        self.readers.iter().all(|(_, at)| {
            let runs = self.runs.len() - self.run_at(*at);
            end - at < (times * PROCESS_AHEAD_BYTES) as u64 && runs < times * PROCESS_RUNS_MAX
        })
    }

    /// Index of the run that holds the byte with this number.
    fn run_at(&self, at: u64) -> usize {
        self.runs.partition_point(|run| run.end <= at)
    }

    pub(super) fn take(&mut self, id: u64) -> Piece {
        let Some(index) = self.readers.iter().position(|(reader, _)| *reader == id) else {
            return Piece::Nothing;
        };
        let at = self.readers[index].1;
        let Some(run) = self.runs.get(self.run_at(at)) else {
            return self.end.clone().map_or(Piece::Nothing, Piece::End);
        };
        let source = run.source;
        let until = run.end.min(at + PROCESS_PIECE_BYTES as u64);
        let from = (at - self.start) as usize;
        let bytes = copy_range(&self.bytes, from, from + (until - at) as usize);
        self.readers[index].1 = until;
        self.trim();
        Piece::Data(source, bytes)
    }

    /// Drops what neither a reader nor the replay needs.
    pub(super) fn trim(&mut self) {
        let mut keep = self.end().saturating_sub(PROCESS_REPLAY_BYTES as u64);
        if let Some(last_dropped) = self.runs.len().checked_sub(PROCESS_RUNS_MAX + 1) {
            keep = keep.max(self.runs[last_dropped].end);
        }
        let keep = self.readers.iter().map(|(_, at)| *at).fold(keep, u64::min);
        if keep > self.start {
            self.bytes.drain(..(keep - self.start) as usize);
            self.start = keep;
            let over = self.run_at(keep);
            self.runs.drain(..over);
        }
        // A slow reader made it large; give that back.
        if self.bytes.capacity() > 4 * self.bytes.len().max(PROCESS_PIECE_BYTES) {
            self.bytes.shrink_to(2 * self.bytes.len());
        }
    }
}

fn copy_range(bytes: &VecDeque<u8>, from: usize, to: usize) -> Vec<u8> {
    let (front, back) = bytes.as_slices();
    let part = |slice: &[u8], offset: usize| {
        let clamp = |at: usize| at.saturating_sub(offset).min(slice.len());
        clamp(from)..clamp(to)
    };
    let mut copy = Vec::with_capacity(to - from);
    copy.extend_from_slice(&front[part(front, 0)]);
    copy.extend_from_slice(&back[part(back, front.len())]);
    copy
}
