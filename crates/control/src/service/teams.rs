//! Teams and their members. Roles are judged by the store inside the transaction of the act; here refusals get their words.

use wrenn_domain::account::{Email, TeamName};
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::{TeamId, UserId};
use wrenn_domain::limits::{MEMBERS_PER_TEAM_MAX, TEAMS_PER_USER_MAX};
use wrenn_domain::role::Role;
use wrenn_store::pg::{Ended, Member, NewAudit, NewTeam, Team, TeamAct};

use super::rates::{self, Limited};
use super::revocation;
use crate::actor::Person;
use crate::context::Context;
use crate::error::ServiceError;
use crate::mail::{Letter, Mail};
use crate::random;

/// The team a request means: the one it names, else the one the caller works in.
///
/// # Errors
/// When it names none and the caller is in none.
pub fn chosen(person: &Person, named: Option<TeamId>) -> Result<TeamId, Failure> {
    let current = person.team.map(|(team, _)| team);
    named
        .or(current)
        .ok_or_else(|| Failure::new(FailureKind::Forbidden, "you are in no team; create one or switch to one of yours"))
}

/// Finds the name of a caller's team, also for keys that belong to nobody.
///
/// # Errors
/// When the team is gone, or the database is away.
pub async fn name(ctx: &Context, id: TeamId) -> Result<String, ServiceError> {
    Ok(ctx.store.team_name(id).await?.ok_or_else(|| not_found(id))?)
}

/// The caller's teams, oldest membership first.
///
/// # Errors
/// When the database cannot be asked.
pub async fn list(ctx: &Context, person: &Person) -> Result<Vec<(Team, Role)>, ServiceError> {
    Ok(ctx.store.team_list(person.user).await?)
}

/// One of the caller's teams.
///
/// # Errors
/// When the caller is not in the team, or the database is away.
pub async fn get(ctx: &Context, person: &Person, id: TeamId) -> Result<(Team, Role), ServiceError> {
    Ok(ctx.store.team_get(id, person.user).await?.ok_or_else(|| not_found(id))?)
}

/// Makes a team; the caller owns it.
///
/// # Errors
/// When the caller is in too many teams, or the database is away.
pub async fn create(ctx: &Context, person: &Person, name: &TeamName) -> Result<(Team, Role), ServiceError> {
    let id = TeamId::from_uuid(random::id());
    let audit = NewAudit::new(id, person.author(), "team", "create").on(id).with("name", name);
    let slug = random::slug()?;
    let job = Mail::Letter(Letter::team_created(&person.email, &person.name, name)).outbound_job();
    let new = NewTeam { id, name, slug: &slug, owner: person.user, is_default: false };
    if !ctx.store.team_create(&new, &[audit], std::slice::from_ref(&job)).await? {
        let text = format!("one person is in at most {TEAMS_PER_USER_MAX} teams; leave one first");
        return Err(Failure::new(FailureKind::Conflict, text).into());
    }
    ctx.queues.mails.wake_for(job.id);
    get(ctx, person, id).await
}

/// Changes a team's name.
///
/// # Errors
/// When the caller is not in the team or its role does not allow this, or the database is away.
pub async fn rename(ctx: &Context, person: &Person, id: TeamId, name: &TeamName) -> Result<(), ServiceError> {
    let audit = NewAudit::new(id, person.author(), "team", "rename").on(id).with("name", name);
    done(ctx.store.team_rename(id, person.user, name, &[audit]).await?, id)
}

/// Deletes a team with its keys; its capsules are told to end.
///
/// # Errors
/// When the caller is not in the team or its role does not allow this, or the database is away.
pub async fn delete(ctx: &Context, person: &Person, id: TeamId) -> Result<(), ServiceError> {
    let author = person.author();
    let audit = NewAudit::new(id, author.clone(), "team", "delete").on(id).warning();
    let ended = done(ctx.store.team_delete(id, person.user, &author, &[audit]).await?, id)?;
    revocation::forget(ctx, &ended).await;
    tracing::info!(team = %id, user = %person.user, "{id} is deleted");
    Ok(())
}

/// A team's members, owner first.
///
/// # Errors
/// When the caller is not in the team, or the database is away.
pub async fn members(ctx: &Context, person: &Person, id: TeamId) -> Result<Vec<Member>, ServiceError> {
    Ok(ctx.store.member_list(id, person.user).await?.ok_or_else(|| not_found(id))?)
}

/// Adds an active account as a member. Limited, because it says whether an address has an account.
///
/// # Errors
/// When the caller is not in the team or its role does not allow this, or the database is away.
pub async fn add_member(ctx: &Context, person: &Person, id: TeamId, email: &Email) -> Result<Member, ServiceError> {
    rates::take_account(ctx, Limited::AddMember, &person.user.to_string()).await?;
    let audit = |user: UserId| member_audit(id, person, "add", user).with("email", email);
    let job = |member: &Member, team: &str| {
        Mail::Letter(Letter::added_to_team(&member.email, &member.name, team)).outbound_job()
    };
    match ctx.store.member_add(id, person.user, email, audit, job).await? {
        TeamAct::Done(member) => {
            ctx.queues.mails.wake();
            Ok(member)
        }
        TeamAct::NoTarget => {
            let text = format!("no active account has the address {email}; ask the person to sign up first");
            Err(Failure::not_found(text).into())
        }
        TeamAct::Already => Err(Failure::new(FailureKind::Conflict, format!("{email} is in the team already")).into()),
        TeamAct::Full => {
            let text = format!("a team has at most {MEMBERS_PER_TEAM_MAX} members");
            Err(Failure::new(FailureKind::Conflict, text).into())
        }
        other => Err(refusal(&other, id)),
    }
}

/// Changes a member's role.
///
/// # Errors
/// When the caller is not in the team or its role does not allow this, or the database is away.
pub async fn change_role(
    ctx: &Context,
    person: &Person,
    id: TeamId,
    user: UserId,
    to: Role,
) -> Result<(), ServiceError> {
    let audit = member_audit(id, person, "role_update", user).with("role", to);
    done(ctx.store.member_set_role(id, person.user, user, to, &[audit]).await?, id)?;
    revocation::forget_user(ctx, user).await;
    Ok(())
}

/// Removes a member with the keys it made in the team.
///
/// # Errors
/// When the caller is not in the team or its role does not allow this, or the database is away.
pub async fn remove_member(ctx: &Context, person: &Person, id: TeamId, user: UserId) -> Result<(), ServiceError> {
    let action = if user == person.user { "leave" } else { "remove" };
    let audit = member_audit(id, person, action, user).warning();
    let keys = match ctx.store.member_remove(id, person.user, user, &[audit]).await? {
        TeamAct::Refused if user == person.user => {
            let text = "the owner cannot leave; transfer the team to another member, or delete it";
            return Err(Failure::new(FailureKind::Forbidden, text).into());
        }
        act => done(act, id)?,
    };
    revocation::forget(ctx, &Ended { keys, users: vec![user] }).await;
    Ok(())
}

/// Makes another member the owner; the owner becomes an admin.
///
/// # Errors
/// When the caller is not in the team or its role does not allow this, or the database is away.
pub async fn transfer(ctx: &Context, person: &Person, id: TeamId, user: UserId) -> Result<(), ServiceError> {
    let audit = member_audit(id, person, "transfer", user).warning();
    match ctx.store.team_transfer(id, person.user, user, &[audit]).await? {
        TeamAct::Already => return Err(Failure::new(FailureKind::Conflict, "you own the team already").into()),
        act => done(act, id)?,
    }
    revocation::forget(ctx, &Ended { keys: Vec::new(), users: vec![person.user, user] }).await;
    Ok(())
}

fn member_audit(team: TeamId, person: &Person, action: &'static str, user: UserId) -> NewAudit {
    NewAudit::new(team, person.author(), "member", action).on(user).for_admins()
}

fn done<T>(act: TeamAct<T>, team: TeamId) -> Result<T, ServiceError> {
    match act {
        TeamAct::Done(value) => Ok(value),
        other => Err(refusal(&other, team)),
    }
}

/// Words a refused act for the caller. Another's team is not there.
pub(super) fn refusal<T>(act: &TeamAct<T>, team: TeamId) -> ServiceError {
    let failure = match act {
        TeamAct::NotThere => not_found(team),
        TeamAct::Refused => {
            Failure::new(FailureKind::Forbidden, "your role in the team does not allow this; ask its owner or an admin")
        }
        TeamAct::NoTarget => Failure::not_found("there is no such member"),
        TeamAct::Already => Failure::new(FailureKind::Conflict, "it is so already"),
        TeamAct::Full => Failure::new(FailureKind::Conflict, "the team is full"),
        TeamAct::Done(_) => Failure::new(FailureKind::Internal, "the team changed while it was looked at; try again"),
    };
    failure.into()
}

fn not_found(id: TeamId) -> Failure {
    Failure::not_found(format!("there is no team {id}"))
}
