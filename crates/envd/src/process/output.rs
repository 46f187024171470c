//! What a process printed: a bounded ring that any number of readers follow, each at its own pace.
//!
//! Bytes are counted from the first one printed; a reader is a number of bytes it has taken. The newest
//! `PROCESS_REPLAY_BYTES` stay for readers to come, and whatever the slowest reader has not taken stays too, so nothing
//! is lost to slowness: [`Output::has_room`] tells the one who fills the ring to wait instead.
//! Must never: hold its lock across an await, or grow with what a process prints.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use wrenn_domain::limits::{PROCESS_READERS_MAX, PROCESS_REPLAY_BYTES};

pub use super::ring::{Allowance, End, Piece, Source};
use super::ring::{Ring, Run};

/// Where a new reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// With the oldest byte there is. For the one who started the process: the first byte printed.
    Oldest,
    /// With the newest [`PROCESS_REPLAY_BYTES`].
    Recent,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Output {
    ring: Mutex<Ring>,
    news: Notify,
    room: Notify,
}

/// A reader's place. To be given back with [`Output::detach`].
#[derive(Debug, PartialEq, Eq)]
pub struct ReaderId(u64);

impl Output {
    /// Adds what was printed. Does not wait: see [`Output::has_room`].
    pub fn append(&self, source: Source, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut ring = self.lock();
        ring.bytes.extend(bytes);
        let end = ring.end();
        match ring.runs.back_mut() {
            Some(run) if run.source == source => run.end = end,
            _ => ring.runs.push_back(Run { source, end }),
        }
        ring.trim();
        drop(ring);
        self.news.notify_waiters();
    }

    /// Nothing will follow.
    pub fn finish(&self, end: End) {
        let mut ring = self.lock();
        ring.end = Some(end);
        ring.bytes.shrink_to_fit();
        ring.runs.shrink_to_fit();
        drop(ring);
        self.news.notify_waiters();
    }

    /// Whether the slowest reader is near enough to print on. True without readers.
    pub fn has_room(&self, allowance: Allowance) -> bool {
        self.lock().has_room(allowance)
    }

    /// Rings once [`Output::has_room`] may have become true.
    pub async fn room(&self) {
        self.room.notified().await;
    }

    /// Rings with whatever is added after it was enabled.
    pub fn news(&self) -> Notified<'_> {
        self.news.notified()
    }

    /// A new reader; none when there are too many.
    pub fn attach(&self, from: From) -> Option<ReaderId> {
        let mut ring = self.lock();
        if ring.readers.len() >= PROCESS_READERS_MAX {
            return None;
        }
        let recent = ring.end().saturating_sub(PROCESS_REPLAY_BYTES as u64);
        let at = match from {
            From::Oldest => ring.start,
            From::Recent => ring.start.max(recent),
        };
        ring.readers_seen += 1;
        let id = ring.readers_seen;
        ring.readers.push((id, at));
        Some(ReaderId(id))
    }

    /// The next bytes for a reader.
    pub fn take(&self, reader: &ReaderId) -> Piece {
        let mut ring = self.lock();
        let crowded = !ring.has_room(Allowance::Usual);
        let piece = ring.take(reader.0);
        drop(ring);
        if crowded {
            self.room.notify_one();
        }
        piece
    }

    /// The reader is gone; nobody waits for it any more.
    pub fn detach(&self, reader: &ReaderId) {
        let mut ring = self.lock();
        ring.readers.retain(|(id, _)| *id != reader.0);
        ring.trim();
        drop(ring);
        self.room.notify_one();
    }

    /// Bytes held now.
    pub fn held_bytes(&self) -> usize {
        self.lock().bytes.len()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wrenn_domain::limits::{PROCESS_AHEAD_BYTES, PROCESS_PIECE_BYTES, PROCESS_RUNS_MAX};
    use wrenn_linux::child::Exit;

    fn read_all(output: &Output, reader: &ReaderId) -> Vec<(Source, Vec<u8>)> {
        let mut pieces: Vec<(Source, Vec<u8>)> = Vec::new();
        while let Piece::Data(source, bytes) = output.take(reader) {
            assert!(!bytes.is_empty() && bytes.len() <= PROCESS_PIECE_BYTES);
            match pieces.last_mut() {
                Some((last, all)) if *last == source => all.extend(bytes),
                _ => pieces.push((source, bytes)),
            }
        }
        pieces
    }

    #[test]
    fn sources_keep_their_order_and_small_prints_come_as_one_piece() {
        let output = Output::default();
        let reader = output.attach(From::Oldest).unwrap();
        for (source, text) in
            [(Source::Stdout, "a"), (Source::Stdout, "b"), (Source::Stderr, "c"), (Source::Stdout, "d")]
        {
            output.append(source, text.as_bytes());
        }
        let expected = [(Source::Stdout, "ab"), (Source::Stderr, "c"), (Source::Stdout, "d")];
        for (source, text) in expected {
            assert_eq!(output.take(&reader), Piece::Data(source, text.into()));
        }
        assert_eq!(output.take(&reader), Piece::Nothing);
        output.finish(Ok(Exit::Code(3)));
        assert_eq!(output.take(&reader), Piece::End(Ok(Exit::Code(3))));
    }

    #[test]
    fn a_slow_reader_stops_the_writer_and_loses_nothing() {
        let output = Output::default();
        let (slow, quick) = (output.attach(From::Oldest).unwrap(), output.attach(From::Oldest).unwrap());
        let mut printed = Vec::new();
        for number in 0u32.. {
            if !output.has_room(Allowance::Usual) {
                break;
            }
            let chunk: Vec<u8> = number.to_le_bytes().repeat(1000);
            output.append(Source::Stdout, &chunk);
            printed.extend(chunk);
            read_all(&output, &quick);
        }
        assert!(printed.len() >= PROCESS_AHEAD_BYTES && printed.len() < PROCESS_AHEAD_BYTES + 4001);
        assert!(output.take(&slow) != Piece::Nothing);
        assert!(output.has_room(Allowance::Usual));
        let rest = read_all(&output, &slow).remove(0).1;
        assert!(printed.ends_with(&rest) && rest.len() == printed.len() - PROCESS_PIECE_BYTES);
        assert_eq!(output.held_bytes(), PROCESS_REPLAY_BYTES);
    }

    #[test]
    fn the_reader_who_leaves_is_not_waited_for() {
        let output = Output::default();
        let reader = output.attach(From::Oldest).unwrap();
        output.append(Source::Stdout, &vec![0; PROCESS_AHEAD_BYTES]);
        assert!(!output.has_room(Allowance::Usual) && output.has_room(Allowance::Last));
        output.append(Source::Stdout, &vec![0; PROCESS_AHEAD_BYTES]);
        assert!(!output.has_room(Allowance::Last));
        output.detach(&reader);
        assert!(output.has_room(Allowance::Usual));
        assert_eq!(output.held_bytes(), PROCESS_REPLAY_BYTES);
    }

    #[test]
    fn who_comes_later_gets_the_newest_bytes_even_when_a_slow_reader_keeps_more() {
        let output = Output::default();
        let slow = output.attach(From::Oldest).unwrap();
        let printed: Vec<u8> = (0..=250u8).cycle().take(3 * PROCESS_REPLAY_BYTES).collect();
        output.append(Source::Terminal, &printed);
        let late = output.attach(From::Recent).unwrap();
        let replay = read_all(&output, &late).remove(0).1;
        assert!(replay == printed[2 * PROCESS_REPLAY_BYTES..]);
        assert!(read_all(&output, &slow).remove(0).1 == printed);
    }

    #[test]
    fn alternating_bytes_stay_within_bounds_with_and_without_a_reader() {
        let output = Output::default();
        let alternate = || {
            for _ in 0..2 * PROCESS_RUNS_MAX {
                output.append(Source::Stdout, b"o");
                output.append(Source::Stderr, b"e");
            }
        };
        alternate();
        assert_eq!(output.lock().runs.len(), PROCESS_RUNS_MAX);
        let reader = output.attach(From::Recent).unwrap();
        assert!(!output.has_room(Allowance::Usual), "{} changes are as far ahead as a megabyte", PROCESS_RUNS_MAX);
        assert_eq!(read_all(&output, &reader).len(), PROCESS_RUNS_MAX);
        assert!(output.has_room(Allowance::Usual));
    }

    #[test]
    fn readers_are_bounded() {
        let output = Output::default();
        let readers: Vec<_> = (0..PROCESS_READERS_MAX).map(|_| output.attach(From::Recent).unwrap()).collect();
        assert_eq!(output.attach(From::Recent), None);
        output.detach(&readers[0]);
        assert!(output.attach(From::Recent).is_some());
    }
}
