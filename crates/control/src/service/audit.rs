//! The audit log, as members and platform admins read it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use wrenn_domain::failure::Failure;
use wrenn_domain::ids::{PLATFORM_TEAM, TeamId};
use wrenn_domain::limits::{AUDIT_PAGE_DEFAULT, AUDIT_PAGE_MAX};
use wrenn_domain::role::Act;
use wrenn_store::pg::{AuditFilter, AuditRow};

use super::teams;
use crate::actor::Person;
use crate::context::Context;
use crate::error::ServiceError;

/// Words in one filter: more than there are kinds of things.
const WORDS_MAX: usize = 32;
/// Marks a cursor as one of ours, and its form.
const CURSOR_FORM: u8 = 1;

/// Which part of a log.
#[derive(Debug, Clone, Default)]
pub struct ListAudit {
    pub team: Option<TeamId>,
    pub cursor: Option<String>,
    pub limit: Option<i64>,
    pub resource_type: Option<String>,
    pub action: Option<String>,
}

/// Rows, and the cursor of the page after them.
pub type Page = (Vec<AuditRow>, Option<String>);

/// A page of a team's log. Rows of scope admin are for owners and admins.
///
/// # Errors
/// When the caller may not read the log, a part of the request is not valid, or the database is away.
pub async fn list(ctx: &Context, person: &Person, request: ListAudit) -> Result<Page, ServiceError> {
    let team = teams::chosen(person, request.team)?;
    let (_, role) = teams::get(ctx, person, team).await?;
    page(ctx, team, role.may(Act::SeeAdminAudit), request).await
}

/// A page of the platform's log, or of any team's, for platform admins.
///
/// # Errors
/// When the caller may not read the log, a part of the request is not valid, or the database is away.
pub async fn list_all(ctx: &Context, request: ListAudit) -> Result<Page, ServiceError> {
    let team = request.team.unwrap_or(PLATFORM_TEAM);
    page(ctx, team, true, request).await
}

async fn page(ctx: &Context, team: TeamId, with_admin: bool, request: ListAudit) -> Result<Page, ServiceError> {
    let limit = request.limit.unwrap_or(AUDIT_PAGE_DEFAULT);
    if !(1..=AUDIT_PAGE_MAX).contains(&limit) {
        return Err(Failure::invalid(format!("limit: 1 to {AUDIT_PAGE_MAX}")).into());
    }
    let filter = AuditFilter {
        team,
        with_admin,
        resource_types: words("resource_type", request.resource_type)?,
        actions: words("action", request.action)?,
        before: request.cursor.as_deref().map(read_cursor).transpose()?,
        // One more tells whether there is a next page.
        limit: limit + 1,
    };
    let mut rows = ctx.store.audit_page(&filter).await?;
    let more = rows.len() as i64 > limit;
    rows.truncate(limit as usize);
    let next = rows.last().filter(|_| more).map(|row| cursor(row.seq));
    Ok((rows, next))
}

fn words(field: &str, list: Option<String>) -> Result<Vec<String>, Failure> {
    let Some(list) = list else { return Ok(Vec::new()) };
    let words: Vec<String> = list.split(',').map(|w| w.trim().to_owned()).filter(|w| !w.is_empty()).collect();
    let odd = |word: &String| word.len() > 64 || !word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if words.len() > WORDS_MAX || words.iter().any(odd) {
        return Err(Failure::invalid(format!("{field}: words of letters, digits and underscores, comma-separated")));
    }
    Ok(words)
}

fn cursor(seq: i64) -> String {
    let mut bytes = vec![CURSOR_FORM];
    bytes.extend(seq.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn read_cursor(text: &str) -> Result<i64, Failure> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    match bytes.as_deref() {
        Some([CURSOR_FORM, seq @ ..]) => seq.try_into().map(i64::from_be_bytes).ok(),
        _ => None,
    }
    .ok_or_else(|| Failure::invalid("cursor: send next_cursor of the page before as it is"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_anything_else_is_refused() {
        for seq in [0, 1, i64::MAX] {
            assert_eq!(read_cursor(&cursor(seq)), Ok(seq));
        }
        for bad in ["", "a", "AAAAAAAAAAAA", "AgAAAAAAAAAB", "' OR 1=1 --", "AQAAAAAAAAABAA", "é"] {
            assert!(read_cursor(bad).is_err(), "{bad}");
        }
    }
}
