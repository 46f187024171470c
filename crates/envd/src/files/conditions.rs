//! Which bytes of a file a request gets: conditions and one range, by RFC 9110, sections 13 and 14.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use axum::http::header::{HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE};

/// A file's version, as cheap as one look at it: size, number and time of change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub etag: String,
    /// Full seconds.
    pub modified: SystemTime,
}

impl Version {
    /// Makes the tag of a file with this number, size and time of change.
    pub fn new(inode: u64, size: i64, modified_sec: i64, modified_nsec: i64) -> Self {
        let modified = u64::try_from(modified_sec).map_or(UNIX_EPOCH, |sec| UNIX_EPOCH + Duration::from_secs(sec));
        Self { etag: format!("\"{inode:x}-{size:x}-{modified_sec:x}.{modified_nsec:x}\""), modified }
    }

    /// The tag of the gzipped form: in another packing it is another body.
    pub fn gzipped(&self) -> String {
        format!("{}-gzip\"", self.etag.trim_end_matches('"'))
    }
}

/// The headers of a request that matter here.
#[derive(Debug, Default, Clone)]
pub struct Conditions {
    if_none_match: Option<String>,
    if_modified_since: Option<String>,
    if_range: Option<String>,
    range: Option<String>,
}

/// Answer to a conditional read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// 200.
    Whole,
    /// 206: bytes `first..=last`.
    Part { first: u64, last: u64 },
    /// 304.
    NotModified,
    /// 416.
    Unsatisfiable,
}

impl Conditions {
    /// Reads them; what cannot be read counts as absent.
    pub fn read(headers: &HeaderMap) -> Self {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self {
            if_none_match: text(IF_NONE_MATCH),
            if_modified_since: text(IF_MODIFIED_SINCE),
            if_range: text(IF_RANGE),
            range: text(RANGE),
        }
    }

    /// A client that counts bytes, or compares them, wants them as they are.
    pub fn want_identity(&self) -> bool {
        self.range.is_some() || self.if_range.is_some()
    }

    /// Decides for a file of `size` bytes; of a file that does not know its size (/proc) there are no parts.
    pub fn plan(&self, version: &Version, size: Option<u64>) -> Plan {
        if self.is_known(version) {
            return Plan::NotModified;
        }
        let (Some(range), Some(size)) = (&self.range, size) else { return Plan::Whole };
        if self.if_range.as_deref().is_some_and(|seen| !is_same(seen, version)) {
            return Plan::Whole;
        }
        part(range, size)
    }

    fn is_known(&self, version: &Version) -> bool {
        match (&self.if_none_match, &self.if_modified_since) {
            (Some(tags), _) => tags.split(',').map(str::trim).any(|tag| {
                let tag = tag.strip_prefix("W/").unwrap_or(tag);
                tag == "*" || tag == version.etag || tag == version.gzipped()
            }),
            (None, Some(date)) => httpdate::parse_http_date(date).is_ok_and(|date| version.modified <= date),
            (None, None) => false,
        }
    }
}

/// `If-Range` holds a strong tag or an exact date.
fn is_same(seen: &str, version: &Version) -> bool {
    seen == version.etag || httpdate::parse_http_date(seen).is_ok_and(|date| date == version.modified)
}

/// One range of bytes. Several, or other units, are legal to ignore, and few servers give them.
fn part(range: &str, size: u64) -> Plan {
    let Some((first, last)) = range.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Plan::Whole;
    };
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>());
    match (first.trim(), last.trim()) {
        ("", "") => Plan::Whole,
        // The last so many bytes.
        ("", count) => match number(count) {
            Some(Ok(0)) => Plan::Unsatisfiable,
            Some(_) if size == 0 => Plan::Unsatisfiable,
            Some(count) => Plan::Part { first: size.saturating_sub(count.unwrap_or(u64::MAX)), last: size - 1 },
            None => Plan::Whole,
        },
        (first, last) => {
            let last = if last.is_empty() { Some(u64::MAX) } else { number(last).map(|n| n.unwrap_or(u64::MAX)) };
            match (number(first).map(|n| n.unwrap_or(u64::MAX)), last) {
                (Some(first), Some(last)) if first <= last && first < size => {
                    Plan::Part { first, last: last.min(size - 1) }
                }
                (Some(first), Some(last)) if first <= last => Plan::Unsatisfiable,
                _ => Plan::Whole,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_to_the_file_or_refused_or_ignored() {
        let part_of = |first, last| Plan::Part { first, last };
        for (range, size, expected) in [
            ("bytes=0-0", 10, part_of(0, 0)),
            ("bytes=0-", 10, part_of(0, 9)),
            ("bytes=9-9", 10, part_of(9, 9)),
            ("bytes=3-100", 10, part_of(3, 9)),
            ("bytes=3-99999999999999999999999", 10, part_of(3, 9)),
            ("bytes=-3", 10, part_of(7, 9)),
            ("bytes=-100", 10, part_of(0, 9)),
            ("bytes=-99999999999999999999999", 10, part_of(0, 9)),
            ("bytes=-0", 10, Plan::Unsatisfiable),
            ("bytes=10-", 10, Plan::Unsatisfiable),
            ("bytes=10-20", 10, Plan::Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Plan::Unsatisfiable),
            ("bytes=0-", 0, Plan::Unsatisfiable),
            ("bytes=-1", 0, Plan::Unsatisfiable),
            ("bytes=5-3", 10, Plan::Whole),
            ("bytes=0-1,3-4", 10, Plan::Whole),
            ("bytes=-", 10, Plan::Whole),
            ("bytes=a-b", 10, Plan::Whole),
            ("bytes=+1-2", 10, Plan::Whole),
            ("bytes=", 10, Plan::Whole),
            ("lines=1-2", 10, Plan::Whole),
        ] {
            assert_eq!(part(range, size), expected, "{range} of {size}");
        }
    }

    #[test]
    fn conditions_are_answered_by_tag_before_date() {
        let version = Version::new(7, 10, 1_000_000_000, 5);
        let other = Version::new(7, 10, 1_000_000_000, 6);
        let (date, later) = ("Sun, 09 Sep 2001 01:46:40 GMT", "Sun, 09 Sep 2001 01:46:41 GMT");
        let earlier = "Sun, 09 Sep 2001 01:46:39 GMT";
        let check = |headers: &[(HeaderName, &str)], expected| {
            let headers: HeaderMap = headers.iter().map(|(n, v)| (n.clone(), v.parse().unwrap())).collect();
            assert_eq!(Conditions::read(&headers).plan(&version, Some(10)), expected, "{headers:?}");
        };
        check(&[(IF_NONE_MATCH, &version.etag)], Plan::NotModified);
        check(&[(IF_NONE_MATCH, &format!("\"x\", W/{}", version.etag))], Plan::NotModified);
        check(&[(IF_NONE_MATCH, "*")], Plan::NotModified);
        check(&[(IF_NONE_MATCH, &other.etag), (IF_MODIFIED_SINCE, later)], Plan::Whole);
        check(&[(IF_MODIFIED_SINCE, date)], Plan::NotModified);
        check(&[(IF_MODIFIED_SINCE, earlier)], Plan::Whole);
        check(&[(IF_MODIFIED_SINCE, "yesterday")], Plan::Whole);
        let half = (RANGE, "bytes=0-4");
        check(std::slice::from_ref(&half), Plan::Part { first: 0, last: 4 });
        check(&[half.clone(), (IF_RANGE, &version.etag)], Plan::Part { first: 0, last: 4 });
        check(&[half.clone(), (IF_RANGE, date)], Plan::Part { first: 0, last: 4 });
        check(&[half.clone(), (IF_RANGE, &other.etag)], Plan::Whole);
        check(&[half.clone(), (IF_RANGE, later)], Plan::Whole);
        check(&[half, (IF_NONE_MATCH, &version.etag)], Plan::NotModified);
    }
}
