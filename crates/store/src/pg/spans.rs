//! How much a team used, and when: from the spans in which its sandboxes held something.
//!
//! A span is opened and closed by a trigger in the transaction that changes the sandbox's state, so what is counted here does not
//! depend on anybody looking at the right moment, nor on a control plane running meanwhile.
//!
//! Owner of: usage_days, usage_rolled, and the end of sandbox_spans' rows (their birth is the trigger's).

use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, Utc};
use sqlx::Row;
use sqlx::postgres::PgRow;
use wrenn_domain::ids::TeamId;

use crate::{Store, StoreError};

/// Resources a team holds at one moment, or the most of each within a while.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Level {
    /// Sandboxes that hold vCPUs and memory.
    pub running: i64,
    pub vcpus: i64,
    /// MiB: all of those that run, half of each paused one.
    pub memory_mib: i64,
}

/// Levels of a team over time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// Now.
    pub current: Level,
    /// The most of each in the last `peak_days`.
    pub peaks: Level,
    /// Begin of each bucket, with the most of each within it; oldest first, the last one holds now.
    pub buckets: Vec<(DateTime<Utc>, Level)>,
}

/// One day's use (UTC).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UsageDay {
    pub day: NaiveDate,
    /// Seconds of one vCPU.
    pub vcpu_seconds: f64,
    /// Seconds of one MiB of memory.
    pub memory_mib_seconds: f64,
}

/// Levels within a while ($2 to $3), by buckets of $4 seconds: the highest of each, and where the bucket leaves them.
const LEVELS: &str = "WITH spans AS (
   SELECT greatest(began_at, $2) AS began_at, ended_at, (kind = 'running')::int AS running,
     CASE WHEN kind = 'running' THEN vcpus ELSE 0 END AS vcpus,
     CASE WHEN kind = 'running' THEN memory_mib ELSE (memory_mib + 1) / 2 END AS memory_mib
   FROM sandbox_spans WHERE team_id = $1 AND began_at < $3 AND (ended_at IS NULL OR ended_at > $2)),
 edges AS (
   SELECT began_at AS at, running, vcpus, memory_mib FROM spans
   UNION ALL SELECT ended_at, -running, -vcpus, -memory_mib FROM spans WHERE ended_at < $3),
 steps AS (
   SELECT at, sum(running) AS running, sum(vcpus) AS vcpus, sum(memory_mib) AS memory_mib FROM edges GROUP BY at),
 levels AS (
   SELECT at, sum(running) OVER w AS running, sum(vcpus) OVER w AS vcpus, sum(memory_mib) OVER w AS memory_mib
   FROM steps WINDOW w AS (ORDER BY at))
 SELECT floor(extract(epoch FROM at - $2) / $4)::bigint AS bucket,
   max(running)::bigint AS running, max(vcpus)::bigint AS vcpus, max(memory_mib)::bigint AS memory_mib,
   ((array_agg(running ORDER BY at DESC))[1])::bigint AS running_last,
   ((array_agg(vcpus ORDER BY at DESC))[1])::bigint AS vcpus_last,
   ((array_agg(memory_mib ORDER BY at DESC))[1])::bigint AS memory_mib_last
 FROM levels GROUP BY bucket ORDER BY bucket";

/// Seconds of vCPUs and MiB of the days from $1 to $2, by team, out of spans.
macro_rules! usage_of {
    ($condition:literal) => {
        concat!(
            "SELECT s.team_id, d.day::date AS day, sum(u.seconds * s.vcpus)::double precision AS vcpu_seconds,
               sum(u.seconds * s.memory_mib)::double precision AS memory_mib_seconds
             FROM generate_series($1::date::timestamp, $2::date::timestamp, interval '1 day') AS d(day)
             CROSS JOIN LATERAL (SELECT d.day AT TIME ZONE 'UTC' AS begins,
               (d.day + interval '1 day') AT TIME ZONE 'UTC' AS ends) b
             JOIN sandbox_spans s ON s.kind = 'running' AND s.began_at < b.ends
               AND (s.ended_at IS NULL OR s.ended_at > b.begins)
             CROSS JOIN LATERAL (SELECT greatest(0, extract(epoch FROM
               least(coalesce(s.ended_at, now()), b.ends) - greatest(s.began_at, b.begins))) AS seconds) u
             WHERE ",
            $condition,
            " GROUP BY s.team_id, d.day"
        )
    };
}

impl Store {
    /// A team's levels in the last `buckets` of `width` seconds each, and its peaks in the last `peak_days`.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn team_levels(
        &self,
        team: TeamId,
        width_secs: i64,
        buckets: usize,
        peak_days: u64,
    ) -> Result<Series, StoreError> {
        self.run("read a team's levels", || async {
            let row = sqlx::query(
                "SELECT now() AS now, count(*) FILTER (WHERE kind = 'running') AS running,
                   coalesce(sum(vcpus) FILTER (WHERE kind = 'running'), 0) AS vcpus,
                   coalesce(sum(CASE WHEN kind = 'running' THEN memory_mib ELSE (memory_mib + 1) / 2 END), 0) AS memory_mib
                 FROM sandbox_spans WHERE team_id = $1 AND ended_at IS NULL",
            )
            .bind(team.uuid())
            .fetch_one(&self.pool)
            .await?;
            let now: DateTime<Utc> = row.try_get("now")?;
            let current = level(&row, ["running", "vcpus", "memory_mib"])?;
            // Buckets begin at whole multiples of their width, so that a chart does not tremble when it is drawn again.
            let end = (now.timestamp().div_euclid(width_secs) + 1) * width_secs;
            let begin = end - width_secs * i64::try_from(buckets).unwrap_or(i64::MAX / width_secs);
            let rows = self.levels(team, moment(begin), now, width_secs).await?;
            let mut shown = Vec::with_capacity(buckets);
            let (mut carried, mut rows) = (Level::default(), rows.iter().peekable());
            for (at, index) in (0_i64..).take(buckets).map(|index| (moment(begin + index * width_secs), index)) {
                let mut most = carried;
                if let Some(row) = rows.next_if(|row| row.try_get::<i64, _>("bucket").is_ok_and(|b| b == index)) {
                    most = most.max(level(row, ["running", "vcpus", "memory_mib"])?);
                    carried = level(row, ["running_last", "vcpus_last", "memory_mib_last"])?;
                }
                shown.push((at, most));
            }
            let since = now - Days::new(peak_days);
            let mut peaks = Level::default();
            for row in &self.levels(team, since, now, i64::from(u32::MAX)).await? {
                peaks = peaks.max(level(row, ["running", "vcpus", "memory_mib"])?);
            }
            Ok(Series { current, peaks: peaks.max(current), buckets: shown })
        })
        .await
    }

    async fn levels(
        &self,
        team: TeamId,
        since: DateTime<Utc>,
        until: DateTime<Utc>,
        width_secs: i64,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        sqlx::query(LEVELS).bind(team.uuid()).bind(since).bind(until).bind(width_secs).fetch_all(&self.pool).await
    }

    /// A team's use on each day from `from` to `to`, both included; today's as far as it has come.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn usage_days(&self, team: TeamId, from: NaiveDate, to: NaiveDate) -> Result<Vec<UsageDay>, StoreError> {
        self.run("read a team's use", || async {
            let rolled: Option<NaiveDate> =
                sqlx::query_scalar("SELECT day FROM usage_rolled").fetch_optional(&self.pool).await?;
            let live_from = rolled.map_or(from, |day| from.max(day + Days::new(1)));
            let mut known = sqlx::query(
                "SELECT day, vcpu_seconds, memory_mib_seconds FROM usage_days
                 WHERE team_id = $1 AND day BETWEEN $2 AND $3 AND day < $4",
            )
            .bind(team.uuid())
            .bind(from)
            .bind(to)
            .bind(live_from)
            .fetch_all(&self.pool)
            .await?;
            if live_from <= to {
                let live = sqlx::query(usage_of!("s.team_id = $3")).bind(live_from).bind(to).bind(team.uuid());
                known.extend(live.fetch_all(&self.pool).await?);
            }
            let mut days: Vec<UsageDay> = from
                .iter_days()
                .take_while(|day| *day <= to)
                .map(|day| UsageDay { day, vcpu_seconds: 0.0, memory_mib_seconds: 0.0 })
                .collect();
            for row in &known {
                let day: NaiveDate = row.try_get("day")?;
                let index = usize::try_from((day - from).num_days()).unwrap_or(usize::MAX);
                if let Some(place) = days.get_mut(index) {
                    place.vcpu_seconds = row.try_get("vcpu_seconds")?;
                    place.memory_mib_seconds = row.try_get("memory_mib_seconds")?;
                }
            }
            Ok(days)
        })
        .await
    }

    /// Adds up the next day that is over and was not added up, for all teams; none when there is none. A day counts as over
    /// `settle` after its end: a transaction that closes a span in it may still be under way until then.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn usage_roll_one(&self, settle: Duration) -> Result<Option<NaiveDate>, StoreError> {
        self.run("add up a day's use", || async {
            let mut tx = self.pool.begin().await?;
            sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('wrenn:usage', 0))").execute(&mut *tx).await?;
            let next: Option<NaiveDate> = sqlx::query_scalar(
                "SELECT next FROM (SELECT coalesce((SELECT day + 1 FROM usage_rolled),
                   (SELECT (min(began_at) AT TIME ZONE 'UTC')::date FROM sandbox_spans)) AS next) n
                 WHERE next < ((now() - $1 * interval '1 second') AT TIME ZONE 'UTC')::date",
            )
            .bind(settle.as_secs_f64())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(day) = next else { return Ok(None) };
            sqlx::query(concat!(
                "INSERT INTO usage_days (team_id, day, vcpu_seconds, memory_mib_seconds) ",
                usage_of!("true"),
                " ON CONFLICT DO NOTHING"
            ))
            .bind(day)
            .bind(day)
            .execute(&mut *tx)
            .await?;
            sqlx::query(
                "INSERT INTO usage_rolled (day) VALUES ($1) ON CONFLICT (one) DO UPDATE SET day = excluded.day",
            )
            .bind(day)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(Some(day))
        })
        .await
    }

    /// Forgets spans that ended longer ago than `spans_kept` and whose days were added up, and days older than `days_kept`.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn usage_sweep(&self, spans_kept: Duration, days_kept: Duration) -> Result<(), StoreError> {
        self.run("forget old use", || async {
            sqlx::query(
                "DELETE FROM sandbox_spans WHERE ended_at < now() - $1 * interval '1 second'
                   AND (ended_at AT TIME ZONE 'UTC')::date <= (SELECT day FROM usage_rolled)",
            )
            .bind(spans_kept.as_secs_f64())
            .execute(&self.pool)
            .await?;
            sqlx::query("DELETE FROM usage_days WHERE day < (now() - $1 * interval '1 second')::date")
                .bind(days_kept.as_secs_f64())
                .execute(&self.pool)
                .await
                .map(|_| ())
        })
        .await
    }
}

impl Level {
    /// The higher of each.
    fn max(self, other: Self) -> Self {
        Self {
            running: self.running.max(other.running),
            vcpus: self.vcpus.max(other.vcpus),
            memory_mib: self.memory_mib.max(other.memory_mib),
        }
    }
}

fn level(row: &PgRow, [running, vcpus, memory]: [&str; 3]) -> Result<Level, sqlx::Error> {
    Ok(Level { running: row.try_get(running)?, vcpus: row.try_get(vcpus)?, memory_mib: row.try_get(memory)? })
}

fn moment(unix: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(unix, 0).unwrap_or_default()
}
