//! Rates out of two looks at a counter.

use std::time::{Duration, Instant};

use super::counters::Cpu;

/// Two questions closer than this get the same answer: over a few ticks a rate says nothing.
const SHORTEST: Duration = Duration::from_millis(100);

/// Share of all CPUs in use since the question before; since the boot for the first one.
#[derive(Debug, Default)]
pub struct Busy {
    last: Option<(Instant, Cpu)>,
    percent: f32,
}

impl Busy {
    /// 0 to 100.
    pub fn percent(&mut self, now: Instant, cpu: Cpu) -> f32 {
        let before = match self.last {
            Some((at, _)) if now.saturating_duration_since(at) < SHORTEST => return self.percent,
            Some((_, before)) => before,
            None => Cpu::default(),
        };
        let total = cpu.total.saturating_sub(before.total);
        let used = cpu.used.saturating_sub(before.used);
        // Ticks of idle time can run backwards by a few; a share cannot leave its bounds for that.
        self.percent = if total == 0 { 0.0 } else { (used as f32 / total as f32 * 100.0).clamp(0.0, 100.0) };
        self.last = Some((now, cpu));
        self.percent
    }
}

/// Bytes per second since the question before; 0 for the first one, which has nothing to compare with.
#[derive(Debug, Default)]
pub struct Flow {
    last: Option<(Instant, u64)>,
    per_second: u64,
}

impl Flow {
    /// Whole bytes per second.
    pub fn per_second(&mut self, now: Instant, bytes: u64) -> u64 {
        if let Some((at, before)) = self.last {
            let passed = now.saturating_duration_since(at);
            if passed < SHORTEST {
                return self.per_second;
            }
            // An interface that was taken away takes its counter with it.
            let moved = bytes.saturating_sub(before);
            let rate = u128::from(moved) * 1000 / passed.as_millis().max(1);
            self.per_second = u64::try_from(rate).unwrap_or(u64::MAX);
        }
        self.last = Some((now, bytes));
        self.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_between_two_questions() {
        let (start, mut flow, mut busy) = (Instant::now(), Flow::default(), Busy::default());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(flow.per_second(at(0), 5000), 0);
        assert_eq!(flow.per_second(at(2000), 9000), 2000);
        assert_eq!(flow.per_second(at(2050), 99_000), 2000, "too soon to say anything new");
        assert_eq!(flow.per_second(at(3000), 9000), 0);
        assert_eq!(flow.per_second(at(4000), 0), 0, "a counter that went back");
        let cpu = |total, used| Cpu { total, used, count: 2 };
        assert_eq!(busy.percent(at(0), cpu(1000, 100)), 10.0);
        assert_eq!(busy.percent(at(1000), cpu(1200, 200)), 50.0);
        assert_eq!(busy.percent(at(1010), cpu(1210, 210)), 50.0);
        assert_eq!(busy.percent(at(2000), cpu(1200, 200)), 0.0);
    }
}
