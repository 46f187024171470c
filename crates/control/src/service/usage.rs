//! How much a team used, by day (UTC).

use chrono::{Days, NaiveDate, Utc};
use wrenn_domain::failure::Failure;
use wrenn_domain::limits::{USAGE_DAYS_DEFAULT, USAGE_DAYS_MAX};
use wrenn_store::pg::UsageDay;

use crate::actor::Actor;
use crate::context::Context;
use crate::error::ServiceError;

/// Days, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageRange {
    pub from: NaiveDate,
    pub to: NaiveDate,
}

impl UsageRange {
    /// Reads two dates of the API: the last 30 days when there are none.
    ///
    /// # Errors
    /// When a text is no date, or the range is not one that is kept.
    pub fn parse(from: Option<&str>, to: Option<&str>, today: NaiveDate) -> Result<Self, Failure> {
        let to = to.map_or(Ok(today), |text| day("to", text))?;
        let from = from.map_or(Ok(to - Days::new(USAGE_DAYS_DEFAULT - 1)), |text| day("from", text))?;
        if from > to {
            return Err(Failure::invalid("from must not be later than to"));
        }
        if (to - from).num_days() > USAGE_DAYS_MAX {
            return Err(Failure::invalid(format!(
                "at most {USAGE_DAYS_MAX} days can be asked for at once; ask again for the others"
            )));
        }
        Ok(Self { from, to })
    }
}

fn day(name: &str, text: &str) -> Result<NaiveDate, Failure> {
    let bad = || Failure::invalid(format!("{name} must be a date, YYYY-MM-DD"));
    // Years of more than four digits, signs and blanks parse too, and arithmetic on them may overflow.
    if text.len() != 10 || !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
        return Err(bad());
    }
    let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(|_| bad())?;
    if day < NaiveDate::from_ymd_opt(2000, 1, 1).unwrap_or_default() {
        return Err(Failure::invalid(format!("{name} is before there was anything to use")));
    }
    Ok(day)
}

/// The caller's team's use on each of these days.
///
/// # Errors
/// When the database cannot be asked.
pub async fn get(ctx: &Context, actor: &Actor, range: UsageRange) -> Result<Vec<UsageDay>, ServiceError> {
    Ok(ctx.store.usage_days(actor.team, range.from, range.to).await?)
}

/// Today, as usage counts days.
pub fn today() -> NaiveDate {
    Utc::now().date_naive()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_strictly_and_ranges_are_bounded() {
        let today = NaiveDate::from_ymd_opt(2026, 3, 1).expect("a day");
        let of = |from, to| UsageRange::parse(from, to, today);
        let last = of(None, None).expect("the last 30 days");
        assert_eq!((last.from.to_string(), last.to.to_string()), ("2026-01-31".to_owned(), "2026-03-01".to_owned()));
        assert!(of(Some("2026-01-01"), Some("2026-01-01")).is_ok(), "one day");
        assert!(of(Some("2026-01-01"), Some("2026-04-03")).is_ok(), "92 days apart");
        for (from, to) in [
            (Some("2026-01-01"), Some("2026-04-04")),
            (Some("2026-01-02"), Some("2026-01-01")),
            (Some("2026-02-30"), None),
            (Some("26-01-01"), None),
            (Some("+12026-1-1"), None),
            (Some("2026-1-1"), None),
            (Some("1999-12-31"), Some("1999-12-31")),
            (None, Some("tomorrow")),
            (Some(""), None),
        ] {
            assert!(of(from, to).is_err(), "{from:?} {to:?}");
        }
    }
}
