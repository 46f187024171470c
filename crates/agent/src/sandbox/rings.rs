//! What a sandbox used, kept compactly: ten minutes of measurements, two hours of averages over 30 s, a day of averages over 5 min.
//!
//! Owns: the points and their form on disk. Must never: measure, or touch a file.

use std::collections::VecDeque;

use wrenn_domain::limits::{METRICS_COARSE_POINTS, METRICS_FINE_POINTS, METRICS_MIDDLE_POINTS};

/// Seconds of one average.
const MIDDLE_SECS: u32 = 30;
const COARSE_SECS: u32 = 300;
/// Reach of the finer rings, seconds.
const FINE_REACH: u32 = 600;
const MIDDLE_REACH: u32 = 7200;

const MAGIC: &[u8; 8] = b"wrennmt1";
const POINT_BYTES: usize = 14;
/// Bytes of all points on disk at most.
pub const FILE_BYTES_MAX: usize =
    MAGIC.len() + 3 * 2 + POINT_BYTES * (METRICS_FINE_POINTS + METRICS_MIDDLE_POINTS + METRICS_COARSE_POINTS);

/// Point is what a sandbox used at one moment, or on average until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Unix seconds.
    pub at: u32,
    /// Hundredths of a per cent of all its vCPUs, at most 10000.
    pub cpu: u16,
    pub memory_kib: u32,
    pub disk_kib: u32,
}

/// All points of one sandbox.
#[derive(Debug, Default)]
pub struct Rings {
    fine: VecDeque<Point>,
    middle: VecDeque<Point>,
    coarse: VecDeque<Point>,
    middle_sum: Sum,
    coarse_sum: Sum,
}

/// Sum is what an average is made of.
#[derive(Debug, Default)]
struct Sum {
    count: u64,
    /// Which step of time it is of.
    step: u32,
    at: u32,
    cpu: u64,
    memory_kib: u64,
    disk_kib: u64,
}

impl Rings {
    /// Takes a measurement.
    pub fn push(&mut self, point: Point) {
        put(&mut self.fine, point, METRICS_FINE_POINTS);
        if let Some(mean) = self.middle_sum.add(point, MIDDLE_SECS) {
            put(&mut self.middle, mean, METRICS_MIDDLE_POINTS);
        }
        if let Some(mean) = self.coarse_sum.add(point, COARSE_SECS) {
            put(&mut self.coarse, mean, METRICS_COARSE_POINTS);
        }
    }

    /// The points of the last `span_secs`, oldest first, from the finest ring that reaches so far.
    pub fn last(&self, now: u32, span_secs: u32) -> Vec<Point> {
        let ring = match span_secs {
            reach if reach <= FINE_REACH => &self.fine,
            reach if reach <= MIDDLE_REACH => &self.middle,
            _ => &self.coarse,
        };
        let since = now.saturating_sub(span_secs);
        ring.iter().filter(|point| point.at >= since).copied().collect()
    }

    /// As written to disk.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for ring in [&self.fine, &self.middle, &self.coarse] {
            bytes.extend(u16::try_from(ring.len()).unwrap_or(0).to_le_bytes());
            for point in ring {
                bytes.extend(point.at.to_le_bytes());
                bytes.extend(point.cpu.to_le_bytes());
                bytes.extend(point.memory_kib.to_le_bytes());
                bytes.extend(point.disk_kib.to_le_bytes());
            }
        }
        bytes
    }

    /// Reads what was written; none when it is anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let mut rings = Self::default();
        for (ring, most) in [
            (&mut rings.fine, METRICS_FINE_POINTS),
            (&mut rings.middle, METRICS_MIDDLE_POINTS),
            (&mut rings.coarse, METRICS_COARSE_POINTS),
        ] {
            let (count, after) = rest.split_first_chunk::<2>()?;
            let count = usize::from(u16::from_le_bytes(*count));
            if count > most {
                return None;
            }
            let (points, after) = after.split_at_checked(count * POINT_BYTES)?;
            for bytes in points.chunks_exact(POINT_BYTES) {
                ring.push_back(point(bytes).filter(|point| point.cpu <= 10_000)?);
            }
            rest = after;
        }
        rest.is_empty().then_some(rings)
    }
}

fn point(bytes: &[u8]) -> Option<Point> {
    let (at, rest) = bytes.split_first_chunk::<4>()?;
    let (cpu, rest) = rest.split_first_chunk::<2>()?;
    let (memory, rest) = rest.split_first_chunk::<4>()?;
    let (disk, _) = rest.split_first_chunk::<4>()?;
    Some(Point {
        at: u32::from_le_bytes(*at),
        cpu: u16::from_le_bytes(*cpu),
        memory_kib: u32::from_le_bytes(*memory),
        disk_kib: u32::from_le_bytes(*disk),
    })
}

fn put(ring: &mut VecDeque<Point>, point: Point, most: usize) {
    if ring.len() >= most {
        ring.pop_front();
    }
    ring.push_back(point);
}

impl Sum {
    /// Adds a measurement; answers the average of the step before, when this one begins a new step.
    fn add(&mut self, point: Point, secs: u32) -> Option<Point> {
        let step = point.at / secs;
        let mean = if self.count > 0 && step != self.step { self.mean() } else { None };
        if mean.is_some() {
            *self = Self::default();
        }
        self.step = step;
        self.at = point.at;
        self.count += 1;
        self.cpu += u64::from(point.cpu);
        self.memory_kib += u64::from(point.memory_kib);
        self.disk_kib += u64::from(point.disk_kib);
        mean
    }

    fn mean(&self) -> Option<Point> {
        Some(Point {
            at: self.at,
            cpu: u16::try_from(self.cpu.checked_div(self.count)?).ok()?,
            memory_kib: u32::try_from(self.memory_kib.checked_div(self.count)?).ok()?,
            disk_kib: u32::try_from(self.disk_kib.checked_div(self.count)?).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(at: u32, cpu: u16) -> Point {
        Point { at, cpu, memory_kib: 1000, disk_kib: 50 }
    }

    /// A day and a bit, twice a second: busy in every other half minute.
    fn day() -> Rings {
        let mut rings = Rings::default();
        for half in 0..2 * (24 * 3600 + 600) {
            let at = 1_800_000_000 + half / 2;
            rings.push(busy(at, if (at / 30) % 2 == 0 { 10_000 } else { 0 }));
        }
        rings
    }

    #[test]
    fn each_range_comes_from_the_finest_ring_that_reaches_so_far() {
        let rings = day();
        let now = 1_800_000_000 + 24 * 3600 + 599;
        let count = |span| rings.last(now, span).len();
        assert_eq!((count(300), count(600)), (602, 1200), "both halves of the second at either end");
        assert_eq!((count(3600), count(7200)), (120, 240));
        assert_eq!((count(21_600), count(43_200), count(86_400)), (72, 144, 288));
        let middle: Vec<u16> = rings.last(now, 7200).iter().map(|p| p.cpu).collect();
        assert!(middle.windows(2).all(|two| two[0] != two[1]), "half minutes alternate");
        assert!(rings.last(now, 86_400).iter().all(|p| p.cpu == 5000 && p.memory_kib == 1000 && p.disk_kib == 50));
        assert!(rings.last(now, 86_400).windows(2).all(|two| two[1].at - two[0].at == 300));
        assert!(rings.last(now + 1000, 300).is_empty(), "nothing is newer than its age");
    }

    #[test]
    fn what_was_written_is_read_back_and_anything_else_is_refused() {
        let rings = day();
        let bytes = rings.encode();
        assert_eq!(bytes.len(), FILE_BYTES_MAX);
        let back = Rings::decode(&bytes).expect("ours");
        assert_eq!((&back.fine, &back.middle, &back.coarse), (&rings.fine, &rings.middle, &rings.coarse));
        let empty = Rings::default().encode();
        assert!(Rings::decode(&empty).is_some());
        for cut in 0..empty.len() {
            assert!(Rings::decode(&empty[..cut]).is_none(), "cut at {cut}");
        }
        for cut in [8, 9, 10, 11, 500, bytes.len() - 1] {
            assert!(Rings::decode(&bytes[..cut]).is_none(), "cut at {cut}");
        }
        let with = |at: usize, value: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            Rings::decode(&bytes).is_none()
        };
        assert!(with(0, b'x'), "another file");
        assert!(with(9, 0xff), "more points than there can be");
        assert!(with(15, 0xff), "more than all of the processors");
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(Rings::decode(&longer).is_none(), "something after the end");
    }

    /// Every byte of a short file, at every value: refused or read, never a panic.
    #[test]
    fn no_byte_makes_it_panic() {
        let mut rings = Rings::default();
        rings.push(busy(1_800_000_000, 1));
        let bytes = rings.encode();
        for at in 0..bytes.len() {
            for value in 0..=u8::MAX {
                let mut changed = bytes.clone();
                changed[at] = value;
                if let Some(mut read) = Rings::decode(&changed) {
                    read.push(busy(1, 10_000));
                    read.push(busy(u32::MAX, 10_000));
                    read.last(u32::MAX, u32::MAX);
                }
            }
        }
    }
}
