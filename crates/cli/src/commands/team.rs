//! `wrenn team`: the caller's teams and who is in them.

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};
use http::Method;
use wrenn_contract::rest::me::WhoAmI;
use wrenn_contract::rest::teams::{
    AddMember, ChangeRole, Member, NameTeam, Team, TeamRole, TeamWithMembers, TransferTeam,
};

use super::login::role_word;
use crate::api::Client;
use crate::output::{Output, plain, table};

/// A role that can be given.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum GivenRole {
    Admin,
    Member,
}

#[derive(Debug, Subcommand)]
pub enum TeamCommand {
    /// List the teams you are in.
    #[command(visible_alias = "ls")]
    List,
    /// Create a team; you own it.
    Create { name: String },
    /// Show a team and its members; the one your key works in when no id is given.
    Get { team: Option<String> },
    /// Change a team's name.
    Rename { team: String, name: String },
    /// Delete a team with its keys and capsules.
    Delete {
        team: String,
        /// Do it: nothing brings the team back.
        #[arg(long, required = true)]
        yes: bool,
    },
    /// Add the person with this e-mail address as a member.
    Add { team: String, email: String },
    /// Remove a member; the keys they made in the team die.
    Remove { team: String, email: String },
    /// Change a member's role.
    Role { team: String, email: String, role: GivenRole },
    /// Make another member the owner; you become an admin.
    Transfer { team: String, email: String },
    /// Leave a team.
    Leave { team: String },
}

/// Runs one of the commands.
///
/// # Errors
/// The server refuses or cannot be reached.
pub async fn run(command: TeamCommand, client: &Client, output: &Output) -> anyhow::Result<u8> {
    match command {
        TeamCommand::List => {
            let teams: Vec<Team> = client.get("/v1/teams").await?;
            output.result(&teams, || {
                let rows: Vec<_> = teams
                    .iter()
                    .map(|t| vec![t.id.clone(), plain(&t.name), t.slug.clone(), role_word(t.role).into()])
                    .collect();
                table(&["ID", "NAME", "SLUG", "YOU ARE"], &rows)
            });
        }
        TeamCommand::Create { name } => {
            let team: Team = client.post("/v1/teams", &NameTeam { name }).await?;
            output.result(&team, || team.id.clone());
        }
        TeamCommand::Get { team } => {
            let id = match team {
                Some(id) => id,
                None => client.get::<WhoAmI>("/v1/whoami").await?.team_id,
            };
            let whole: TeamWithMembers = client.get(&path(&id)?).await?;
            output.result(&whole, || {
                let rows: Vec<_> = whole.members.iter().map(row).collect();
                format!(
                    "{}  {}\n\n{}",
                    whole.team.id,
                    plain(&whole.team.name),
                    table(&["E-MAIL", "NAME", "ROLE"], &rows)
                )
            });
        }
        TeamCommand::Rename { team, name } => {
            client.send_json(Method::PATCH, &path(&team)?, &NameTeam { name }).await?
        }
        TeamCommand::Delete { team, yes: _ } => client.empty(Method::DELETE, &path(&team)?).await?,
        TeamCommand::Add { team, email } => {
            let member: Member = client.post(&format!("{}/members", path(&team)?), &AddMember { email }).await?;
            output.result(&member, || format!("{} is a member now", plain(&member.email)));
        }
        TeamCommand::Remove { team, email } => {
            client.empty(Method::DELETE, &member_path(client, &team, &email).await?).await?;
        }
        TeamCommand::Role { team, email, role } => {
            let role = match role {
                GivenRole::Admin => TeamRole::Admin,
                GivenRole::Member => TeamRole::Member,
            };
            client.send_json(Method::PATCH, &member_path(client, &team, &email).await?, &ChangeRole { role }).await?;
        }
        TeamCommand::Transfer { team, email } => {
            let user_id = member_of(client, &team, &email).await?.user_id;
            client.send_json(Method::POST, &format!("{}/transfer", path(&team)?), &TransferTeam { user_id }).await?;
        }
        TeamCommand::Leave { team } => client.empty(Method::POST, &format!("{}/leave", path(&team)?)).await?,
    }
    Ok(0)
}

/// A team's path; the id is checked so that it cannot be a path of its own.
fn path(id: &str) -> anyhow::Result<String> {
    let id: wrenn_domain::ids::TeamId = id.parse().context("`wrenn team list` shows the ids")?;
    Ok(format!("/v1/teams/{id}"))
}

async fn member_path(client: &Client, team: &str, email: &str) -> anyhow::Result<String> {
    let member = member_of(client, team, email).await?;
    let user: wrenn_domain::ids::UserId = member.user_id.parse().context("the server sent an odd id")?;
    Ok(format!("{}/members/{user}", path(team)?))
}

async fn member_of(client: &Client, team: &str, email: &str) -> anyhow::Result<Member> {
    let members: Vec<Member> = client.get(&format!("{}/members", path(team)?)).await?;
    match members.into_iter().find(|member| member.email.eq_ignore_ascii_case(email)) {
        Some(member) => Ok(member),
        None => bail!("nobody with the address {email} is in the team"),
    }
}

fn row(member: &Member) -> Vec<String> {
    vec![plain(&member.email), plain(&member.name), role_word(member.role).into()]
}
