//! Outbound jobs: written once, done by one, counted, given up.

use std::time::Duration;

use futures::future::join_all;
use uuid::Uuid;
use wrenn_store::pg::{Lease, NewOutboundJob, OutboundJobKind, TokenPurpose};
use wrenn_testkit::{Database, wait_until};

use crate::people::{mail, mail_id, pending, secret, slug, token};

fn lease(keep_ms: u64) -> Lease {
    Lease { owner: Uuid::new_v4(), keep: Duration::from_millis(keep_ms) }
}

#[tokio::test]
async fn each_outbound_job_is_claimed_by_one_and_counts_its_tries() {
    let store = Database::fresh().await.store();
    let jobs: Vec<_> = (0..40).map(|_| mail()).collect();
    for job in &jobs {
        store.outbound_job_put(job).await.expect("written");
        store.outbound_job_put(job).await.expect("writing it again changes nothing");
    }
    let claims = join_all((0..8).map(|_| store.outbound_job_claim(OutboundJobKind::Mail, lease(60_000), 10))).await;
    let mut claimed: Vec<_> = claims.into_iter().flat_map(|claim| claim.expect("asked")).collect();
    assert!(claimed.iter().all(|job| job.attempts == 1));
    claimed.sort_by_key(|job| job.id);
    claimed.dedup_by_key(|job| job.id);
    assert_eq!(claimed.len(), 40);
    assert!(store.outbound_job_claim(OutboundJobKind::AccountHook, lease(1), 10).await.expect("asked").is_empty());
    assert!(store.outbound_job_claim_one(OutboundJobKind::Mail, lease(1), jobs[0].id).await.expect("asked").is_none());
}

#[tokio::test]
async fn an_outbound_job_whose_holder_died_goes_to_another_and_one_given_up_to_nobody() {
    let store = Database::fresh().await.store();
    let job = mail();
    store.outbound_job_put(&job).await.expect("written");
    let dead = lease(1);
    assert!(store.outbound_job_claim_one(OutboundJobKind::Mail, dead, job.id).await.expect("asked").is_some());
    let living = lease(60_000);
    let claimed = wait_until("the lease ends", Duration::from_secs(10), || async {
        store.outbound_job_claim_one(OutboundJobKind::Mail, living, job.id).await.expect("asked")
    })
    .await;
    assert_eq!(claimed.attempts, 2);
    assert!(!store.outbound_job_renew(OutboundJobKind::Mail, dead, job.id).await.expect("asked"));
    assert!(store.outbound_job_renew(OutboundJobKind::Mail, living, job.id).await.expect("asked"));
    store.outbound_job_postpone(OutboundJobKind::Mail, dead.owner, job.id, Duration::ZERO).await.expect("asked");
    assert!(store.outbound_job_claim(OutboundJobKind::Mail, dead, 1).await.expect("asked").is_empty(), "still held");
    store.outbound_job_postpone(OutboundJobKind::Mail, living.owner, job.id, Duration::ZERO).await.expect("asked");
    assert_eq!(store.outbound_job_next_due(OutboundJobKind::Mail).await.expect("asked"), Some(Duration::ZERO));
    store.outbound_job_give_up(job.id, "no").await.expect("asked");
    assert!(store.outbound_job_claim(OutboundJobKind::Mail, living, 1).await.expect("asked").is_empty());
    assert_eq!(store.outbound_job_next_due(OutboundJobKind::Mail).await.expect("asked"), None);
    store.outbound_job_sweep(Duration::ZERO).await.expect("asked");
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM outbound_jobs").fetch_one(store.pool()).await.expect("asked");
    assert_eq!(left, 0);
}

#[tokio::test]
async fn one_of_a_key_waits_and_the_next_is_written_when_it_is_over() {
    let store = Database::fresh().await.store();
    let keyed = || NewOutboundJob { key: Some("reset:a@example.com".to_owned()), ..mail() };
    let jobs: Vec<_> = (0..8).map(|_| keyed()).collect();
    join_all(jobs.iter().map(|job| store.outbound_job_put(job))).await;
    let claimed = store.outbound_job_claim(OutboundJobKind::Mail, lease(60_000), 10).await.expect("asked");
    assert_eq!(claimed.len(), 1);
    store.outbound_job_give_up(claimed[0].id, "no").await.expect("asked");
    store.outbound_job_put(&keyed()).await.expect("written");
    assert_eq!(store.outbound_job_claim(OutboundJobKind::Mail, lease(60_000), 10).await.expect("asked").len(), 1);
}

#[tokio::test]
async fn a_mail_sent_again_leaves_its_first_token_good_and_another_mail_does_not() {
    let store = Database::fresh().await.store();
    pending(&store, "a@example.com").await;
    let email = "a@example.com".parse().expect("an address");
    let (mail, keep) = (mail_id(), Duration::from_secs(600));
    let (one, two) = (secret().hash(), secret().hash());
    for hash in [&one, &two] {
        let issued = store.token_issue(mail, TokenPurpose::Activation, &email, hash, keep).await.expect("asked");
        assert!(issued.is_some());
    }
    for hash in [&one, &two] {
        assert!(store.user_by_activation(hash).await.expect("asked").is_some());
    }
    let three = token(&store, "a@example.com", TokenPurpose::Activation).await;
    for hash in [&one, &two] {
        assert!(store.user_by_activation(hash).await.expect("asked").is_none());
    }
    let reset = store.token_issue(mail, TokenPurpose::PasswordReset, &email, &one, keep).await.expect("asked");
    assert!(reset.is_none(), "only an active account resets its password");
    store.user_activate(&three, &slug(), None, |_| Vec::new()).await.expect("asked").expect("activated");
    let late = store.token_issue(mail, TokenPurpose::Activation, &email, &one, keep).await.expect("asked");
    assert!(late.is_none(), "what is active is not activated");
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM account_tokens").fetch_one(store.pool()).await.expect("asked");
    assert_eq!(left, 0, "the other tokens went with the one that was used");
}
