//! What a team holds: now, over time, and at most.

use wrenn_domain::failure::Failure;
use wrenn_domain::limits::STATS_DAYS;
use wrenn_store::pg::Series;

use crate::actor::Actor;
use crate::context::Context;
use crate::error::ServiceError;

/// How far back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatsRange {
    M5,
    H1,
    H6,
    H24,
    D30,
}

impl StatsRange {
    const ALL: [Self; 5] = [Self::M5, Self::H1, Self::H6, Self::H24, Self::D30];

    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::M5 => "5m",
            Self::H1 => "1h",
            Self::H6 => "6h",
            Self::H24 => "24h",
            Self::D30 => "30d",
        }
    }

    /// Seconds of one bucket, and how many there are.
    fn buckets(self) -> (i64, usize) {
        match self {
            Self::M5 => (3, 100),
            Self::H1 => (30, 120),
            Self::H6 => (180, 120),
            Self::H24 => (720, 120),
            Self::D30 => (21_600, 120),
        }
    }

    /// Reads the word of the API; one hour when there is none.
    ///
    /// # Errors
    /// When the text is none of the ranges.
    pub fn parse(text: Option<&str>) -> Result<Self, Failure> {
        let Some(text) = text else { return Ok(Self::H1) };
        Self::ALL
            .into_iter()
            .find(|range| range.as_str() == text)
            .ok_or_else(|| Failure::invalid("range is one of 5m, 1h, 6h, 24h and 30d"))
    }
}

/// The caller's team's levels.
///
/// # Errors
/// When the database cannot be asked.
pub async fn get(ctx: &Context, actor: &Actor, range: StatsRange) -> Result<Series, ServiceError> {
    let (width, count) = range.buckets();
    Ok(ctx.store.team_levels(actor.team, width, count, STATS_DAYS).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buckets_of_every_range_fill_it() {
        let whole: Vec<i64> = StatsRange::ALL.iter().map(|r| r.buckets().0 * r.buckets().1 as i64).collect();
        assert_eq!(whole, [300, 3600, 6 * 3600, 24 * 3600, 30 * 24 * 3600]);
    }
}
