//! Teams: roles judged in the act, one owner, ends that end everything.

use std::time::Duration;

use futures::future::join_all;
use uuid::Uuid;
use wrenn_domain::ids::{KeyId, TeamId, UserId};
use wrenn_domain::key::ApiKey;
use wrenn_domain::role::Role;
use wrenn_domain::sandbox::SandboxState;
use wrenn_store::Store;
use wrenn_store::pg::{Author, NewAudit, NewKey, Placed, TeamAct};
use wrenn_testkit::Database;

use crate::people::{mail, person};
use crate::rows::{host, place, wish};

fn audit(team: TeamId) -> NewAudit {
    NewAudit::new(team, Author::system(), "member", "change").for_admins()
}

async fn join(store: &Store, team: TeamId, owner: UserId, email: &str) -> UserId {
    let who = person(store, email).await.user;
    let added =
        store.member_add(team, owner, &email.parse().expect("an address"), |_| audit(team), |_, _| mail()).await;
    let added = added.expect("asked");
    assert!(matches!(added, TeamAct::Done(_)), "{added:?}");
    who
}

fn key(team: TeamId, by: UserId) -> NewKey {
    let secret = ApiKey::from_random(*Uuid::new_v4().as_bytes());
    NewKey {
        id: KeyId::from_uuid(Uuid::new_v4()),
        team,
        name: "k".to_owned(),
        hash: secret.hash(),
        prefix: secret.visible_prefix(),
        created_by: Some(by),
        personal: false,
        expires_at: None,
    }
}

#[tokio::test]
async fn parallel_transfers_removals_and_role_changes_leave_exactly_one_owner() {
    let store = Database::fresh().await.store();
    let ann = person(&store, "a@example.com").await;
    let bob = join(&store, ann.team, ann.user, "b@example.com").await;
    let eve = join(&store, ann.team, ann.user, "e@example.com").await;
    let all = [ann.user, bob, eve];
    for _ in 0..5 {
        let mut acts: Vec<futures::future::BoxFuture<'_, ()>> = Vec::new();
        for by in all {
            for target in all {
                let (store, team) = (&store, ann.team);
                acts.push(Box::pin(async move {
                    store.team_transfer(team, by, target, &[]).await.expect("asked");
                }));
                acts.push(Box::pin(async move {
                    store.member_set_role(team, by, target, Role::Admin, &[]).await.expect("asked");
                }));
            }
        }
        join_all(acts).await;
        let owners: i64 = sqlx::query_scalar("SELECT count(*) FROM team_members WHERE team_id = $1 AND role = 'owner'")
            .bind(ann.team.uuid())
            .fetch_one(store.pool())
            .await
            .expect("asked");
        assert_eq!(owners, 1);
    }
}

#[tokio::test]
async fn a_key_made_while_its_maker_is_removed_does_not_outlive_the_removal() {
    let store = Database::fresh().await.store();
    let ann = person(&store, "a@example.com").await;
    for round in 0..5 {
        let bob = join(&store, ann.team, ann.user, &format!("b{round}@example.com")).await;
        let keys: Vec<_> = (0..4).map(|_| key(ann.team, bob)).collect();
        let makes = join_all(keys.iter().map(|key| store.key_create_by(bob, key, &[])));
        let (_, removed) = tokio::join!(makes, store.member_remove(ann.team, ann.user, bob, &[]));
        assert!(matches!(removed.expect("asked"), TeamAct::Done(_)));
        for key in &keys {
            assert!(store.key_actor(key.hash).await.expect("asked").is_none(), "a removed member's key lives");
        }
    }
}

#[tokio::test]
async fn strangers_find_no_team_and_members_are_refused_what_their_role_lacks() {
    let store = Database::fresh().await.store();
    let ann = person(&store, "a@example.com").await;
    let bob = join(&store, ann.team, ann.user, "b@example.com").await;
    let eve = person(&store, "e@example.com").await.user;
    let name = "New".parse().expect("a name");
    let author = Author::system();
    assert_eq!(store.team_rename(ann.team, eve, &name, &[]).await.expect("asked"), TeamAct::NotThere);
    assert_eq!(store.team_rename(ann.team, bob, &name, &[]).await.expect("asked"), TeamAct::Refused);
    assert_eq!(store.team_delete(ann.team, eve, &author, &[]).await.expect("asked"), TeamAct::NotThere);
    assert_eq!(store.team_delete(ann.team, bob, &author, &[]).await.expect("asked"), TeamAct::Refused);
    assert_eq!(store.member_remove(ann.team, ann.user, ann.user, &[]).await.expect("asked"), TeamAct::Refused);
    assert_eq!(store.member_remove(ann.team, bob, eve, &[]).await.expect("asked"), TeamAct::NoTarget);
    assert!(store.member_list(ann.team, eve).await.expect("asked").is_none());
    assert_eq!(store.member_list(ann.team, bob).await.expect("asked").map(|m| m.len()), Some(2));
    let again = store
        .member_add(ann.team, ann.user, &"b@example.com".parse().expect("one"), |_| audit(ann.team), |_, _| mail())
        .await;
    assert!(matches!(again.expect("asked"), TeamAct::Already));
}

#[tokio::test]
async fn nothing_is_created_in_a_team_that_is_being_deleted() {
    let store = Database::fresh().await.store();
    let ann = person(&store, "a@example.com").await;
    let host = host(&store).await;
    let first = place(&store, &wish(ann.team), host, Duration::ZERO).await;
    let wishes: Vec<_> = (0..6).map(|_| wish(ann.team)).collect();
    let creates =
        join_all(wishes.iter().map(|new| store.sandbox_insert(new, host, |_| true, Uuid::new_v4(), Duration::ZERO)));
    let author = Author::system();
    let (creates, deleted) = tokio::join!(creates, store.team_delete(ann.team, ann.user, &author, &[]));
    assert!(matches!(deleted.expect("asked"), TeamAct::Done(_)));
    assert!(creates.iter().all(|c| matches!(c, Ok(Placed::Here(_) | Placed::TeamGone))), "{creates:?}");
    let living: i64 = sqlx::query_scalar("SELECT count(*) FROM sandboxes WHERE state <> 'stopping'")
        .fetch_one(store.pool())
        .await
        .expect("asked");
    assert_eq!(living, 0, "every sandbox of the team is wished to stop");
    let row = store.admin_sandbox_get(first.id).await.expect("asked").expect("there");
    assert_eq!((row.state, row.requested_by), (SandboxState::Stopping, Some(author)));
}

#[tokio::test]
async fn a_personal_key_is_dead_when_its_person_leaves_or_it_expires() {
    let store = Database::fresh().await.store();
    let ann = person(&store, "a@example.com").await;
    let bob = join(&store, ann.team, ann.user, "b@example.com").await;
    let personal = NewKey { personal: true, ..key(ann.team, bob) };
    assert_eq!(store.key_create_by(bob, &personal, &[]).await.expect("asked"), TeamAct::Done(()));
    let actor = store.key_actor(personal.hash).await.expect("asked").expect("valid");
    assert_eq!(actor.acts_for.map(|u| (u.user, u.role)), Some((bob, Role::Member)));
    sqlx::query("DELETE FROM team_members WHERE user_id = $1")
        .bind(bob.uuid())
        .execute(store.pool())
        .await
        .expect("gone");
    assert!(store.key_actor(personal.hash).await.expect("asked").is_none());
    let brief =
        NewKey { expires_at: Some(chrono::Utc::now() - chrono::TimeDelta::seconds(1)), ..key(ann.team, ann.user) };
    store.key_create_by(ann.user, &brief, &[]).await.expect("asked");
    assert!(store.key_actor(brief.hash).await.expect("asked").is_none());
}

#[tokio::test]
async fn the_audit_log_is_paged_without_gap_or_repetition_and_scoped() {
    let store = Database::fresh().await.store();
    let team = TeamId::from_uuid(Uuid::new_v4());
    for n in 0..25 {
        let row = NewAudit::new(team, Author::system(), if n % 2 == 0 { "team" } else { "member" }, "act").on(n);
        let row = if n % 5 == 0 { row.for_admins() } else { row };
        store.audit_note(&row).await.expect("written");
    }
    let mut filter = wrenn_store::pg::AuditFilter {
        team,
        with_admin: false,
        resource_types: Vec::new(),
        actions: Vec::new(),
        before: None,
        limit: 7,
    };
    let mut seen = Vec::new();
    loop {
        let page = store.audit_page(&filter).await.expect("read");
        let Some(last) = page.last() else { break };
        filter.before = Some(last.seq);
        seen.extend(page.into_iter().filter_map(|row| row.resource_id?.parse::<i32>().ok()));
    }
    let expected: Vec<i32> = (0..25).rev().filter(|n| n % 5 != 0).collect();
    assert_eq!(seen, expected);
    filter = wrenn_store::pg::AuditFilter { before: None, limit: 100, with_admin: true, ..filter };
    assert_eq!(store.audit_page(&filter).await.expect("read").len(), 25);
    filter.resource_types = vec!["member".to_owned()];
    assert_eq!(store.audit_page(&filter).await.expect("read").len(), 12);
    filter.actions = vec!["x'; DROP TABLE audit_logs; --".to_owned()];
    assert_eq!(store.audit_page(&filter).await.expect("read").len(), 0);
}
