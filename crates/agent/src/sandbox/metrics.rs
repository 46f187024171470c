//! Measures what running sandboxes use, from the host: their guests are not asked and not woken.
//!
//! ```text
//! every half second, each running one: processor time and resident memory of its VMM, blocks of its disk -> rings
//! each minute, and when it no longer runs, and at the agent's end: rings -> the sandbox's directory
//! runs again, or a new agent: the sandbox's directory -> rings
//! ```
//! Per cent of the processor are of all its vCPUs; what the VMM itself uses counts too, up to all of them. Memory is what is
//! resident, pages shared with other sandboxes of the template included. A disk's blocks include those of its image.

use crate::failure::cause;
use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::{METRICS_EVERY, METRICS_KEPT_EVERY};
use wrenn_linux::files;
use wrenn_linux::process::{cpu_time, resident_bytes};

use super::board::Board;
use super::report::now_ms;
use super::rings::{FILE_BYTES_MAX, Point, Rings};
use crate::blocking::blocking;
use crate::context::Context;
use crate::mutex::lock;
use crate::storage::Store;

const FILE: &str = "metrics";
/// Memory and disk change slowly and cost a system call or two more: measured each so many times.
const SLOW_EVERY: u32 = 4;

/// A sandbox whose VMM runs.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub id: SandboxId,
    pub pid: i32,
    pub vcpus: u32,
    pub dir: PathBuf,
}

/// The rings of all that run.
#[derive(Default)]
pub struct Metrics {
    tracks: Mutex<HashMap<SandboxId, Arc<Mutex<Track>>>>,
}

struct Track {
    dir: PathBuf,
    rings: Rings,
    /// The VMM, when it was last measured, and the processor time it had used.
    before: Option<(i32, Instant, Duration)>,
    turn: u32,
    memory_kib: u32,
    disk_kib: u32,
    kept_at: Instant,
}

/// Measures until the agent ends.
pub async fn measure(ctx: Arc<Context>, board: Arc<Board>, metrics: Arc<Metrics>) {
    let mut ticks = tokio::time::interval(METRICS_EVERY);
    // A host that was busy is measured again when it can be, not twice as often afterwards.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let machines = board.machines().into_iter();
        let subjects: Vec<_> = machines
            .map(|(id, machine, vcpus)| Subject {
                id,
                pid: machine.record().process.pid,
                vcpus,
                dir: ctx.store.sandbox_dir(id),
            })
            .collect();
        let its = Arc::clone(&metrics);
        // Files of /proc and of the store.
        let store = ctx.store.clone();
        blocking(move || its.measure_all(&store, &subjects)).await;
    }
}

impl Metrics {
    /// Measures each of these, and puts away those that are no longer among them.
    pub(super) fn measure_all(&self, store: &Store, subjects: &[Subject]) {
        let now = Instant::now();
        for subject in subjects {
            let track = {
                let mut tracks = lock(&self.tracks);
                Arc::clone(tracks.entry(subject.id).or_insert_with(|| Arc::new(Mutex::new(Track::load(subject, now)))))
            };
            lock(&track).measure(store, subject, now);
        }
        let living: HashSet<SandboxId> = subjects.iter().map(|subject| subject.id).collect();
        let resting = |id: &SandboxId| !living.contains(id);
        let rested: Vec<_> =
            lock(&self.tracks).iter().filter(|(id, _)| resting(id)).map(|(_, track)| Arc::clone(track)).collect();
        for track in rested {
            lock(&track).keep(now);
        }
        // Only now: whoever asks meanwhile must not be answered from a file that is not written yet.
        lock(&self.tracks).retain(|id, _| !resting(id));
    }

    /// Writes the rings of all sandboxes to their directories, for the next agent. Blocks.
    pub fn keep_all(&self) {
        let all: Vec<_> = lock(&self.tracks).values().cloned().collect();
        for track in all {
            lock(&track).keep(Instant::now());
        }
    }

    /// Returns the points of a sandbox's last `span_secs`, whether it runs or rests. May block.
    pub fn last(&self, id: SandboxId, dir: &Path, span_secs: u32) -> Vec<Point> {
        let track = lock(&self.tracks).get(&id).cloned();
        match track {
            Some(track) => lock(&track).rings.last(now_secs(), span_secs),
            None => load(dir).last(now_secs(), span_secs),
        }
    }
}

impl Track {
    fn load(subject: &Subject, now: Instant) -> Self {
        // Spread over a minute, so that not all are written at once.
        let spread = Duration::from_millis(u64::try_from(subject.id.uuid().as_u128() % 60_000).unwrap_or(0));
        Self {
            dir: subject.dir.clone(),
            rings: load(&subject.dir),
            before: None,
            turn: 0,
            memory_kib: 0,
            disk_kib: 0,
            kept_at: now + spread,
        }
    }

    fn measure(&mut self, store: &Store, subject: &Subject, now: Instant) {
        let Some(used) = cpu_time(subject.pid) else {
            // It is ending; that is noticed elsewhere.
            self.before = None;
            return;
        };
        if self.turn.is_multiple_of(SLOW_EVERY) || self.before.is_none() {
            self.memory_kib = resident_bytes(subject.pid).map_or(self.memory_kib, kib);
            self.disk_kib = kib(disk_bytes(store, &subject.dir));
        }
        self.turn = self.turn.wrapping_add(1);
        let before = self.before.replace((subject.pid, now, used));
        if let Some((pid, then, had)) = before
            && pid == subject.pid
        {
            let (memory_kib, disk_kib) = (self.memory_kib, self.disk_kib);
            let cpu = share(used.saturating_sub(had), now.saturating_duration_since(then), subject.vcpus);
            self.rings.push(Point { at: now_secs(), cpu, memory_kib, disk_kib });
        }
        if now.saturating_duration_since(self.kept_at) >= METRICS_KEPT_EVERY {
            self.keep(now);
        }
    }

    fn keep(&mut self, now: Instant) {
        self.kept_at = now;
        // Of a deleted one nothing is kept.
        if !self.dir.is_dir() {
            return;
        }
        if let Err(error) = files::replace_unsynced(&self.dir.join(FILE), &self.rings.encode()) {
            tracing::debug!(error = cause(&error), "metrics are not written down");
        }
    }
}

/// Returns the share in hundredths of a per cent of all vCPUs.
fn share(used: Duration, span: Duration, vcpus: u32) -> u16 {
    let all = span.as_micros().saturating_mul(u128::from(vcpus.max(1))).max(1);
    u16::try_from((used.as_micros().saturating_mul(10_000) / all).min(10_000)).unwrap_or(10_000)
}

/// Reads the rings of a sandbox; nothing when there is nothing or it is not ours.
fn load(dir: &Path) -> Rings {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(dir.join(FILE))
        .and_then(|file| file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
    if read.is_err() {
        return Rings::default();
    }
    Rings::decode(&bytes).unwrap_or_else(|| {
        tracing::warn!(dir = %dir.display(), "the metrics in {} are damaged; they begin anew", dir.display());
        Rings::default()
    })
}

/// Returns the bytes a sandbox's disk occupies, whether it runs or rests; 0 when it has none.
pub(super) fn disk_bytes(store: &Store, dir: &Path) -> u64 {
    // A figure that cannot be had now is had next time.
    let used = |dir: &Path| store.disk_bytes_used(dir).unwrap_or(0);
    let running = used(dir);
    if running > 0 {
        return running;
    }
    let captures = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let captures = captures.filter(|entry| entry.file_name().to_string_lossy().starts_with("capture-"));
    captures.map(|entry| used(&entry.path())).max().unwrap_or(0)
}

fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes / 1024).unwrap_or(u32::MAX)
}

fn now_secs() -> u32 {
    u32::try_from(now_ms() / 1000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Killed(Child);

    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn process(line: &str) -> Killed {
        let child = Command::new("/bin/sh").args(["-c", line]).stdout(Stdio::null()).spawn();
        Killed(child.expect("a shell"))
    }

    fn store(dir: &Path) -> Store {
        Store::with_disks(dir, dir, Arc::new(crate::storage::CopiedDisks)).unwrap()
    }

    fn subject(process: &Killed, dir: &Path) -> Subject {
        let id = SandboxId::from_uuid(uuid::Uuid::from_u128(7));
        Subject { id, pid: process.0.id().cast_signed(), vcpus: 1, dir: dir.to_owned() }
    }

    /// Measures until a condition on the points holds.
    fn until(metrics: &Metrics, who: &Subject, what: &str, is_so: impl Fn(&[Point]) -> bool) -> Vec<Point> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            metrics.measure_all(&store(&who.dir), std::slice::from_ref(who));
            let points = metrics.last(who.id, &who.dir, 600);
            if is_so(&points) {
                return points;
            }
            assert!(Instant::now() < end, "{what}: {points:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[test]
    fn a_busy_process_is_seen_as_busy_and_a_sleeping_one_as_idle() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("disk"), vec![7; 300_000]).unwrap();
        let (busy, idle) = (process("while :; do :; done"), process("exec sleep 60"));
        let metrics = Metrics::default();
        // The machine may be busy with other things too.
        let points = until(&metrics, &subject(&busy, dir.path()), "busy", |points| {
            // It is a shell only once it has been loaded.
            points.iter().any(|p| p.cpu > 2000 && (100..100_000).contains(&p.memory_kib))
        });
        let last = points.last().unwrap();
        assert!((290..1000).contains(&last.disk_kib), "{last:?}");
        let other = Metrics::default();
        let points = until(&other, &subject(&idle, dir.path()), "idle", |points| points.len() >= 10);
        assert!(points.iter().skip(2).all(|p| p.cpu < 500), "{points:?}");
    }

    #[test]
    fn points_outlive_a_pause_and_the_agent_and_a_new_process_begins_without_a_jump() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Metrics::default();
        let (first, second) = (process("while :; do :; done"), process("exec sleep 60"));
        let who = subject(&first, dir.path());
        let before = until(&metrics, &who, "measured", |points| points.len() >= 3);
        metrics.measure_all(&store(dir.path()), &[]);
        assert!(lock(&metrics.tracks).is_empty(), "nothing is kept in memory of one that rests");
        assert_eq!(metrics.last(who.id, &who.dir, 600), before, "answered from its directory");
        let next = Metrics::default();
        let who = subject(&second, dir.path());
        let after = until(&next, &who, "measured again", |points| points.len() >= before.len() + 3);
        assert_eq!(after[..before.len()], before);
        assert!(after[before.len()..].iter().all(|p| p.cpu < 1000), "{after:?}");
        next.keep_all();
        std::fs::write(dir.path().join(FILE), b"nonsense").unwrap();
        assert!(Metrics::default().last(who.id, dir.path(), 600).is_empty(), "what is damaged is not shown");
    }

    #[test]
    fn nothing_is_written_for_one_whose_directory_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        std::fs::create_dir(&gone).unwrap();
        let metrics = Metrics::default();
        let process = process("exec sleep 60");
        until(&metrics, &subject(&process, &gone), "measured", |points| points.len() >= 2);
        std::fs::remove_dir_all(&gone).unwrap();
        metrics.measure_all(&store(dir.path()), &[]);
        assert!(!gone.exists());
    }

    #[test]
    fn a_share_is_of_all_processors_and_never_above_them() {
        let half = Duration::from_millis(500);
        assert_eq!(share(Duration::from_millis(250), half, 1), 5000);
        assert_eq!(share(Duration::from_millis(250), half, 2), 2500);
        assert_eq!(share(Duration::from_secs(5), half, 2), 10_000);
        assert_eq!(share(Duration::ZERO, Duration::ZERO, 0), 0);
    }

    #[test]
    fn a_paused_one_s_disk_is_found_in_its_capture() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        assert_eq!(disk_bytes(&store, dir.path()), 0);
        let capture = dir.path().join("capture-3");
        std::fs::create_dir(&capture).unwrap();
        std::fs::write(capture.join("disk"), vec![1; 100_000]).unwrap();
        assert!((98_304..200_000).contains(&disk_bytes(&store, dir.path())));
    }
}
