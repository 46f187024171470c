//! Accounts: sign-up, activation, passwords, admins, and the races between them.

use std::time::Duration;

use futures::future::join_all;
use wrenn_domain::ids::UserId;
use wrenn_store::pg::{
    Author, Departure, Identity, Linked, NewSession, SignedUp, Switched, TokenPurpose, Unlinked, UserStatus,
};
use wrenn_testkit::Database;

use crate::people::{mail, pending, person, secret, sign_up, slug, token};

#[tokio::test]
async fn nobody_becomes_a_platform_admin_by_coming_first() {
    let store = Database::fresh().await.store();
    let tokens = join_all((0..4).map(|n| {
        let store = store.clone();
        async move { pending(&store, &format!("p{n}@example.com")).await }
    }))
    .await;
    let slugs: Vec<_> = tokens.iter().map(|_| slug()).collect();
    let tries = tokens.iter().zip(&slugs).map(|(token, slug)| store.user_activate(token, slug, None, |_| Vec::new()));
    for done in join_all(tries).await {
        assert!(!done.expect("asked").expect("activated").is_admin);
    }
}

#[tokio::test]
async fn the_password_is_the_one_that_comes_with_the_token() {
    let store = Database::fresh().await.store();
    for (email, sent) in [("a@example.com", Some("hash")), ("b@example.com", None)] {
        let token = pending(&store, email).await;
        // One that somebody else typed before, in an older release.
        sqlx::query("UPDATE users SET password_hash = 'theirs'").execute(store.pool()).await.expect("set");
        store.user_activate(&token, &slug(), sent, |_| Vec::new()).await.expect("asked").expect("activated");
        let user = store.user_by_email(&email.parse().expect("valid")).await.expect("asked").expect("there");
        assert_eq!(user.password_hash.as_deref(), sent);
    }
}

#[tokio::test]
async fn one_activation_token_used_by_many_at_once_works_once() {
    let store = Database::fresh().await.store();
    let token = pending(&store, "a@example.com").await;
    let slugs: Vec<_> = (0..8).map(|_| slug()).collect();
    let done = join_all(slugs.iter().map(|slug| store.user_activate(&token, slug, None, |_| Vec::new()))).await;
    assert_eq!(done.iter().filter(|d| d.as_ref().expect("asked").is_some()).count(), 1);
    let teams: i64 =
        sqlx::query_scalar("SELECT count(*) FROM team_members").fetch_one(store.pool()).await.expect("asked");
    assert_eq!(teams, 1);
}

#[tokio::test]
async fn a_pending_sign_up_keeps_its_address_for_its_time_and_an_account_for_ever() {
    let store = Database::fresh().await.store();
    let old = pending(&store, "a@example.com").await;
    let again = sign_up("a@example.com");
    assert_eq!(store.user_sign_up(&again, |_| mail()).await.expect("asked"), SignedUp::Cooling);
    sqlx::query("UPDATE users SET created_at = now() - interval '601 s'").execute(store.pool()).await.expect("aged");
    assert_eq!(store.user_sign_up(&again, |_| mail()).await.expect("asked"), SignedUp::Pending);
    assert!(store.user_by_activation(&old).await.expect("asked").is_none(), "the old token is dead");
    let new = token(&store, "a@example.com", TokenPurpose::Activation).await;
    store.user_activate(&new, &slug(), None, |_| Vec::new()).await.expect("asked").expect("activated");
    let taken = store.user_sign_up(&sign_up("a@example.com"), |_| mail()).await.expect("asked");
    assert_eq!(taken, SignedUp::Taken(UserStatus::Active));
}

#[tokio::test]
async fn of_two_password_changes_on_one_old_password_one_is_made_and_every_session_ends() {
    let store = Database::fresh().await.store();
    let ann = person(&store, "a@example.com").await;
    let session = NewSession {
        hash: secret().hash(),
        user: ann.user,
        team: Some(ann.team),
        user_agent: String::new(),
        ip_address: String::new(),
    };
    store.session_create(&session, None).await.expect("made").expect("active");
    let changes =
        join_all(["one", "two", "three"].map(|hash| store.password_change(ann.user, Some("hash"), hash, &[], &[])))
            .await;
    assert_eq!(changes.iter().filter(|c| *c.as_ref().expect("asked")).count(), 1);
    assert!(store.session_get(&session.hash).await.expect("asked").is_none());
}

#[tokio::test]
async fn two_admins_who_demote_or_shut_out_each_other_leave_one() {
    let store = Database::fresh().await.store();
    let (ann, bob) = (person(&store, "a@example.com").await.user, person(&store, "b@example.com").await.user);
    for round in 0..6 {
        for id in [ann, bob] {
            let author = Author::system();
            store.user_set_active(id, true, &author, &[]).await.expect("active");
            store.user_set_admin(id, true, &[]).await.expect("admin");
        }
        let author = Author::system();
        let (one, two) = if round % 2 == 0 {
            tokio::join!(store.user_set_admin(ann, false, &[]), store.user_set_admin(bob, false, &[]))
        } else {
            tokio::join!(store.user_set_active(ann, false, &author, &[]), store.user_set_admin(bob, false, &[]))
        };
        let outcomes = [one.expect("asked"), two.expect("asked")];
        assert_eq!(outcomes.iter().filter(|o| **o == Switched::LastAdmin).count(), 1, "{outcomes:?}");
    }
}

#[tokio::test]
async fn the_last_admin_cannot_leave() {
    let store = Database::fresh().await.store();
    let ann = person(&store, "a@example.com").await.user;
    sqlx::query("UPDATE users SET is_admin = true").execute(store.pool()).await.expect("as the operator does");
    let author = Author::system();
    let audit = |team| wrenn_store::pg::NewAudit::new(team, Author::system(), "team", "delete").on(team);
    assert_eq!(store.user_depart(ann, &author, audit, &[]).await.expect("asked"), Departure::LastAdmin);
    let bob = person(&store, "b@example.com").await;
    assert!(matches!(store.user_depart(bob.user, &author, audit, &[]).await.expect("asked"), Departure::Done(_)));
    assert_eq!(store.user_depart(bob.user, &author, audit, &[]).await.expect("asked"), Departure::Gone);
    assert!(store.user_purge_one(3600.0, |_| Vec::new()).await.expect("asked").is_none(), "kept for a while");
    assert_eq!(store.user_purge_one(0.0, |_| vec![mail()]).await.expect("asked").expect("purged").id, bob.user);
    let mail: i64 = sqlx::query_scalar("SELECT count(*) FROM outbound_jobs WHERE payload = '{}'")
        .fetch_one(store.pool())
        .await
        .expect("asked");
    assert_eq!(mail, 3, "two sign-ups and the purge");
    assert!(store.user_get(bob.user).await.expect("asked").is_none());
}

#[tokio::test]
async fn two_unlinks_at_once_leave_one_way_into_an_account_without_password() {
    let store = Database::fresh().await.store();
    let ann = person(&store, "a@example.com").await.user;
    let identity = |provider: &str| Identity {
        provider: provider.to_owned(),
        id: "1".to_owned(),
        email: "a@example.com".parse().expect("an address"),
    };
    for provider in ["x", "y"] {
        assert_eq!(store.oauth_link(ann, &identity(provider), &[]).await.expect("asked"), Linked::Done);
    }
    assert_eq!(store.oauth_link(ann, &identity("x"), &[]).await.expect("asked"), Linked::Already);
    let bob = person(&store, "b@example.com").await.user;
    assert_eq!(store.oauth_link(bob, &identity("x"), &[]).await.expect("asked"), Linked::Already, "another's");
    sqlx::query("UPDATE users SET password_hash = NULL WHERE id = $1")
        .bind(ann.uuid())
        .execute(store.pool())
        .await
        .expect("updated");
    let (x, y) = tokio::join!(store.oauth_unlink(ann, "x", &[]), store.oauth_unlink(ann, "y", &[]));
    let mut outcomes = [x.expect("asked"), y.expect("asked")];
    outcomes.sort_by_key(|o| *o != Unlinked::Done);
    assert_eq!(outcomes, [Unlinked::Done, Unlinked::OnlyLogin]);
}

#[tokio::test]
async fn a_burst_passes_and_the_rest_is_told_how_long_to_wait() {
    let store = Database::fresh().await.store();
    let rate = wrenn_store::pg::Rate { burst: 10, every: Duration::from_secs(60) };
    let tries = join_all((0..30).map(|_| store.rate_take("k", rate))).await;
    let waits: Vec<_> = tries.into_iter().filter_map(|t| t.expect("asked").err()).collect();
    assert_eq!(waits.len(), 20);
    assert!(waits.iter().all(|w| *w > Duration::from_secs(50) && *w <= Duration::from_secs(60)), "{waits:?}");
    store.rate_forgive("k").await.expect("forgiven");
    assert_eq!(store.rate_take("k", rate).await.expect("asked"), Ok(()));
    sqlx::query("UPDATE rate_limits SET arrival_at = now() - interval '1 s'")
        .execute(store.pool())
        .await
        .expect("aged");
    assert_eq!(store.rate_sweep().await.expect("swept"), 1);
}

#[tokio::test]
async fn a_session_idle_or_old_or_of_a_shut_out_user_is_none() {
    let store = Database::fresh().await.store();
    let ann = person(&store, "a@example.com").await;
    let new = |user: UserId| NewSession {
        hash: secret().hash(),
        user,
        team: Some(ann.team),
        user_agent: "x".to_owned(),
        ip_address: "::1".to_owned(),
    };
    let session = new(ann.user);
    let facts = store.session_create(&session, None).await.expect("made").expect("active");
    assert_eq!(facts.team.map(|(team, _)| team), Some(ann.team));
    let age = |sql: &'static str| {
        let store = store.clone();
        async move { sqlx::query(sql).execute(store.pool()).await.expect("aged") }
    };
    age("UPDATE sessions SET last_seen_at = now() - interval '6 h 1 s'").await;
    assert!(store.session_get(&session.hash).await.expect("asked").is_none(), "idle");
    store.session_touch(&[session.hash.to_string()]).await.expect("asked");
    assert!(store.session_get(&session.hash).await.expect("asked").is_none(), "a touch does not wake it");
    age("UPDATE sessions SET last_seen_at = now() - interval '5 h 59 min'").await;
    assert!(store.session_get(&session.hash).await.expect("asked").is_some());
    store.session_touch(&[session.hash.to_string()]).await.expect("asked");
    let seen = store.session_list(ann.user).await.expect("listed").remove(0).last_seen_at;
    assert!(chrono_now() - seen < chrono::TimeDelta::seconds(60), "{seen}");
    age("UPDATE sessions SET expires_at = now()").await;
    assert!(store.session_get(&session.hash).await.expect("asked").is_none(), "old");
    let second = new(ann.user);
    store.session_create(&second, None).await.expect("made").expect("active");
    person(&store, "b@example.com").await;
    age("UPDATE users SET status = 'disabled'").await;
    assert!(store.session_get(&second.hash).await.expect("asked").is_none(), "shut out");
    assert!(store.session_create(&new(ann.user), None).await.expect("asked").is_none());
}

fn chrono_now() -> chrono::DateTime<chrono::Utc> {
    chrono::Utc::now()
}
