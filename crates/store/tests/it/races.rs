//! Checks that are followed by an act, by many at once: what was checked must still hold when the act is done.

use std::time::Duration;

use futures::future::join_all;
use uuid::Uuid;
use wrenn_domain::ids::{KeyId, TeamId, UserId};
use wrenn_domain::key::ApiKey;
use wrenn_domain::limits::{KEYS_PER_TEAM_MAX, MEMBERS_PER_TEAM_MAX, TEAMS_PER_USER_MAX};
use wrenn_store::Store;
use wrenn_store::pg::{
    Author, Departure, DeviceTaken, Identity, Linked, NewAudit, NewKey, NewTeam, OAuthIntent, OAuthSignedUp,
    OAuthState, SignedUp, TeamAct, TokenPurpose,
};
use wrenn_testkit::Database;

use crate::people::{mail, pending, person, secret, sign_up, slug, token};

const KEEP: Duration = Duration::from_secs(600);

async fn count(store: &Store, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(store.pool()).await.expect("asked")
}

fn identity(id: &str, email: &str) -> Identity {
    Identity { provider: "github".to_owned(), id: id.to_owned(), email: email.parse().expect("an address") }
}

async fn oauth_sign_up(store: &Store, identity: &Identity) -> OAuthSignedUp {
    let ids = (UserId::from_uuid(Uuid::new_v4()), TeamId::from_uuid(Uuid::new_v4()));
    store.oauth_sign_up(ids, identity, &"Ann".parse().expect("a name"), &slug(), &[]).await.expect("asked")
}

fn audit(team: TeamId) -> NewAudit {
    NewAudit::new(team, Author::system(), "member", "change")
}

#[tokio::test]
async fn many_sign_ups_of_one_address_make_one() {
    let store = Database::fresh().await.store();
    let wishes: Vec<_> = (0..8).map(|_| sign_up("a@example.com")).collect();
    let done = join_all(wishes.iter().map(|wish| store.user_sign_up(wish, |_| mail()))).await;
    let outcomes: Vec<_> = done.into_iter().map(|outcome| outcome.expect("asked")).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == SignedUp::Pending).count(), 1, "{outcomes:?}");
    assert!(outcomes.iter().all(|outcome| matches!(outcome, SignedUp::Pending | SignedUp::Cooling)), "{outcomes:?}");
}

#[tokio::test]
async fn one_reset_token_used_by_many_sets_one_password() {
    let store = Database::fresh().await.store();
    person(&store, "a@example.com").await;
    let token = token(&store, "a@example.com", TokenPurpose::PasswordReset).await;
    let hashes: Vec<_> = (0..8).map(|n| format!("hash {n}")).collect();
    let audit = |user: &wrenn_store::pg::User| audit(user.first_team);
    let done = join_all(hashes.iter().map(|hash| store.password_reset(&token, hash, audit, |_| mail()))).await;
    assert_eq!(done.iter().filter(|reset| reset.as_ref().expect("asked").is_some()).count(), 1);
    assert_eq!(count(&store, "SELECT count(*) FROM audit_logs").await, 1);
}

#[tokio::test]
async fn an_address_confirmed_by_mail_and_by_a_provider_at_once_is_one_account() {
    for _ in 0..4 {
        let store = Database::fresh().await.store();
        let token = pending(&store, "a@example.com").await;
        let (identity, other) = (identity("1", "a@example.com"), identity("2", "b@example.com"));
        let slug = slug();
        let (by_mail, by_provider, another) = tokio::join!(
            store.user_activate(&token, &slug, None, |_| Vec::new()),
            oauth_sign_up(&store, &identity),
            oauth_sign_up(&store, &other)
        );
        let by_mail = by_mail.expect("asked");
        let by_provider = matches!(by_provider, OAuthSignedUp::Done(_));
        assert!(by_mail.is_some() != by_provider, "one of both ways: {by_mail:?} {by_provider}");
        assert!(matches!(another, OAuthSignedUp::Done(_)));
        assert_eq!(count(&store, "SELECT count(*) FROM users WHERE status = 'active'").await, 2);
        assert_eq!(count(&store, "SELECT count(*) FROM users WHERE is_admin").await, 0);
        assert_eq!(count(&store, "SELECT count(*) FROM team_members").await, 2);
    }
}

#[tokio::test]
async fn one_identity_signed_up_or_linked_by_many_belongs_to_one() {
    let store = Database::fresh().await.store();
    let (ann, bob) = (person(&store, "a@example.com").await.user, person(&store, "b@example.com").await.user);
    let one = identity("1", "x@example.com");
    let (first, second, third) =
        tokio::join!(store.oauth_link(ann, &one, &[]), store.oauth_link(bob, &one, &[]), oauth_sign_up(&store, &one));
    let linked = [first, second].into_iter().filter(|l| *l.as_ref().expect("asked") == Linked::Done).count();
    let signed_up = usize::from(matches!(third, OAuthSignedUp::Done(_)));
    assert_eq!(linked + signed_up, 1);
    assert_eq!(count(&store, "SELECT count(*) FROM oauth_providers").await, 1);
}

#[tokio::test]
async fn one_round_trip_through_a_provider_ends_once() {
    let store = Database::fresh().await.store();
    let (hash, browser) = (secret().hash(), secret().hash());
    let state = OAuthState {
        hash: hash.clone(),
        browser: browser.clone(),
        provider: "github".to_owned(),
        intent: OAuthIntent::Login,
        link_user: None,
        session: None,
        pkce_verifier: "v".to_owned(),
    };
    store.oauth_state_put(&state, KEEP).await.expect("put");
    let taken = join_all((0..8).map(|_| store.oauth_state_take(&hash, &browser, "github"))).await;
    assert_eq!(taken.iter().filter(|taken| taken.as_ref().expect("asked").is_some()).count(), 1);
}

#[tokio::test]
async fn one_device_is_approved_by_one_person_and_gets_one_key() {
    let store = Database::fresh().await.store();
    let (ann, bob) = (person(&store, "a@example.com").await, person(&store, "b@example.com").await);
    let device = secret().hash();
    assert!(store.device_create(&device, "BCDF-GHJK", "a program", KEEP).await.expect("asked"));
    let (one, two) = tokio::join!(
        store.device_approve("BCDF-GHJK", ann.user, ann.team),
        store.device_approve("BCDF-GHJK", bob.user, bob.team)
    );
    assert!(one.expect("asked") != two.expect("asked"));
    let make = |user: UserId, _: &str, team: TeamId, client: String| {
        let secret = ApiKey::from_random(*Uuid::new_v4().as_bytes());
        let key = NewKey {
            id: KeyId::from_uuid(Uuid::new_v4()),
            team,
            name: client,
            hash: secret.hash(),
            prefix: secret.visible_prefix(),
            created_by: Some(user),
            personal: true,
            expires_at: None,
        };
        (key, audit(team))
    };
    let taken = join_all((0..8).map(|_| store.device_take(&device, make))).await;
    assert_eq!(taken.iter().filter(|t| matches!(t.as_ref().expect("asked"), DeviceTaken::Done(_))).count(), 1);
    assert_eq!(count(&store, "SELECT count(*) FROM team_api_keys").await, 1);
}

#[tokio::test]
async fn the_last_place_of_a_person_a_team_or_a_key_is_given_once() {
    let store = Database::fresh().await.store();
    let ann = person(&store, "a@example.com").await;
    let fill = |teams: i64, members: i64, keys: i64| {
        let store = store.clone();
        async move {
            for (statement, most) in [
                ("WITH made AS (INSERT INTO teams (id, name, slug) SELECT gen_random_uuid(), 'T', 's' || n FROM generate_series(2, $2) n RETURNING id)
                  INSERT INTO team_members (team_id, user_id, role) SELECT id, $1, 'member' FROM made", teams),
                ("WITH made AS (INSERT INTO users (id, email, name, status, first_team_id)
                  SELECT gen_random_uuid(), 'm' || n || '@example.com', 'M', 'active', gen_random_uuid() FROM generate_series(2, $2) n RETURNING id)
                  INSERT INTO team_members (team_id, user_id, role)
                  SELECT (SELECT team_id FROM team_members WHERE user_id = $1 AND role = 'owner'), id, 'member' FROM made", members),
                ("INSERT INTO team_api_keys (id, team_id, name, key_hash, key_prefix)
                  SELECT gen_random_uuid(), (SELECT team_id FROM team_members WHERE user_id = $1 AND role = 'owner'), 'k', 'h' || n, 'p'
                  FROM generate_series(1, $2) n", keys),
            ] {
                sqlx::query(statement).bind(ann.user.uuid()).bind(most).execute(store.pool()).await.expect("filled");
            }
        }
    };
    // One place is left of each.
    fill(TEAMS_PER_USER_MAX - 1, MEMBERS_PER_TEAM_MAX - 1, KEYS_PER_TEAM_MAX - 1).await;
    let name = "New".parse().expect("a name");
    let slugs: Vec<_> = (0..4).map(|_| slug()).collect();
    let teams: Vec<_> = slugs
        .iter()
        .map(|slug| NewTeam {
            id: TeamId::from_uuid(Uuid::new_v4()),
            name: &name,
            slug,
            owner: ann.user,
            is_default: false,
        })
        .collect();
    let made = join_all(teams.iter().map(|team| store.team_create(team, &[], &[]))).await;
    assert_eq!(made.iter().filter(|made| *made.as_ref().expect("asked")).count(), 1);
    let mut emails = Vec::new();
    for n in 0..4 {
        let email = format!("n{n}@example.com");
        person(&store, &email).await;
        emails.push(email.parse().expect("an address"));
    }
    let added = join_all(
        emails.iter().map(|email| store.member_add(ann.team, ann.user, email, |_| audit(ann.team), |_, _| mail())),
    )
    .await;
    assert_eq!(added.iter().filter(|a| matches!(a.as_ref().expect("asked"), TeamAct::Done(_))).count(), 1);
    let keys: Vec<_> = (0..4)
        .map(|_| {
            let secret = ApiKey::from_random(*Uuid::new_v4().as_bytes());
            NewKey {
                id: KeyId::from_uuid(Uuid::new_v4()),
                team: ann.team,
                name: "k".to_owned(),
                hash: secret.hash(),
                prefix: secret.visible_prefix(),
                created_by: Some(ann.user),
                personal: false,
                expires_at: None,
            }
        })
        .collect();
    let made = join_all(keys.iter().map(|key| store.key_create_by(ann.user, key, &[]))).await;
    assert_eq!(made.iter().filter(|m| *m.as_ref().expect("asked") == TeamAct::Done(())).count(), 1);
}

#[tokio::test]
async fn an_owner_who_leaves_while_members_are_added_leaves_no_team_without_owner() {
    for round in 0..6 {
        let store = Database::fresh().await.store();
        person(&store, "admin@example.com").await;
        let ann = person(&store, "a@example.com").await;
        let bob = person(&store, "b@example.com").await;
        let email = "b@example.com".parse().expect("an address");
        let author = Author::system();
        let leave = store.user_depart(ann.user, &author, audit, &[]);
        let add = store.member_add(ann.team, ann.user, &email, |_| audit(ann.team), |_, _| mail());
        let (left, added) = if round % 2 == 0 {
            tokio::join!(leave, add)
        } else {
            let (added, left) = tokio::join!(add, leave);
            (left, added)
        };
        let added = matches!(added.expect("asked"), TeamAct::Done(_));
        match left.expect("asked") {
            Departure::Done(_) => assert!(!added, "somebody is in a team that is gone"),
            Departure::OwnsTeams => assert!(added),
            other => panic!("{other:?}"),
        }
        let orphans = "SELECT count(*) FROM team_members m JOIN teams t ON t.id = m.team_id WHERE t.deleted_at IS NULL
                         AND NOT EXISTS (SELECT 1 FROM team_members o JOIN users u ON u.id = o.user_id
                           WHERE o.team_id = t.id AND o.role = 'owner' AND u.status = 'active')";
        assert_eq!(count(&store, orphans).await, 0);
        assert!(store.user_get(bob.user).await.expect("asked").is_some());
    }
}
