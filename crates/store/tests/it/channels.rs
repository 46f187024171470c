//! Channels: written with the event, held by one, in order.

use std::time::Duration;

use futures::future::join_all;
use uuid::Uuid;
use wrenn_domain::event::EventType;
use wrenn_domain::ids::{ChannelId, TeamId, UserId};
use wrenn_domain::notification_channel::{ChannelName, Provider};
use wrenn_store::Store;
use wrenn_store::pg::{ChannelChange, Event, Lease, NewChannel, TeamAct};
use wrenn_testkit::{Database, wait_until};

use crate::events::event;
use crate::people::person;

fn lease(keep_ms: u64) -> Lease {
    Lease { owner: Uuid::new_v4(), keep: Duration::from_millis(keep_ms) }
}

async fn channel(store: &Store, (team, by): (TeamId, UserId), name: &str, events: &[EventType]) -> ChannelId {
    let name: ChannelName = name.parse().expect("a name");
    let id = ChannelId::from_uuid(Uuid::new_v4());
    let new = NewChannel { id, team, name: &name, provider: Provider::Slack, config: b"sealed", events };
    // Made again after a lost answer it is the same.
    for _ in 0..2 {
        let made = store.channel_create_by(by, new, &[]).await.expect("asked");
        assert!(matches!(made, TeamAct::Done(row) if row.id == id));
    }
    id
}

#[tokio::test]
async fn an_event_is_owed_once_to_each_channel_that_asked_for_it() {
    let store = Database::fresh().await.store();
    let (ann, eve) = (person(&store, "ann@example.com").await, person(&store, "eve@example.com").await);
    let (anns, eves) = ((ann.team, ann.user), (eve.team, eve.user));
    let both = [EventType::CapsuleCreate, EventType::HostDown];
    let one = channel(&store, anns, "one", &both).await;
    let two = channel(&store, anns, "two", &both[1..]).await;
    let hers = channel(&store, eves, "one", &both).await;
    let told = event(ann.team, "cl-1");
    for _ in 0..2 {
        store.event_publish(std::slice::from_ref(&told)).await.expect("told");
    }
    let waiting = async |team, id| store.channel_get(team, id).await.expect("asked").expect("is there").waiting;
    assert_eq!((waiting(ann.team, one).await, waiting(ann.team, two).await, waiting(eve.team, hers).await), (1, 0, 0));
    // Another team's is not there, and whoever is not in the team changes nothing.
    assert!(store.channel_get(eve.team, one).await.expect("asked").is_none());
    for (team, by, expected) in [(eve.team, eve.user, TeamAct::NoTarget), (ann.team, eve.user, TeamAct::NotThere)] {
        let tried = store.channel_change_by(team, by, one, ChannelChange::Delete, &[]).await.expect("asked");
        assert_eq!(std::mem::discriminant(&tried), std::mem::discriminant(&expected));
    }
    assert_eq!(waiting(ann.team, one).await, 1);
}

#[tokio::test]
async fn a_channel_is_held_by_one_and_what_waits_goes_in_order() {
    let store = Database::fresh().await.store();
    let ann = person(&store, "ann@example.com").await;
    let id = channel(&store, (ann.team, ann.user), "one", &[EventType::CapsuleCreate]).await;
    let events: Vec<_> = (0..3).map(|n| event(ann.team, &format!("cl-{n}"))).collect();
    for told in &events {
        store.event_publish(std::slice::from_ref(told)).await.expect("told");
    }
    let of = |payload: &str| Event::read(payload).expect("an event").id;
    // Of all who ask at once one gets it; one that died is followed by another.
    let dead = lease(1);
    let claims = join_all((0..6).map(|_| store.channel_claim(dead, 10))).await;
    assert!(claims.iter().all(Result::is_ok));
    let living = lease(60_000);
    let work = wait_until("the lease ends", Duration::from_secs(10), || async {
        store.channel_claim_one(living, id).await.expect("asked")
    })
    .await;
    assert_eq!((of(&work.event.payload), work.config.as_slice()), (events[0].id, &b"sealed"[..]));
    assert!(work.event.attempts >= 2, "the dead one's try counts");
    assert!(store.channel_claim(lease(1), 10).await.expect("asked").is_empty(), "it is held");
    assert!(!store.channel_renew(dead, id).await.expect("asked"));
    assert!(store.channel_renew(living, id).await.expect("asked"));
    // What another one does in its name changes nothing.
    store.channel_postpone(dead.owner, id, Duration::ZERO).await.expect("asked");
    assert!(store.channel_claim(lease(1), 10).await.expect("asked").is_empty(), "still held");

    store.channel_finish(living.owner, id, work.event.seq, true).await.expect("finished");
    store.channel_postpone(living.owner, id, Duration::ZERO).await.expect("given back");
    let next = store.channel_claim_one(living, id).await.expect("asked").expect("one more").event;
    assert_eq!((of(&next.payload), next.attempts), (events[1].id, 1), "its tries are its own");
    store.channel_failed(id, "no").await.expect("noted");
    store.channel_postpone(living.owner, id, Duration::from_secs(60)).await.expect("given back");
    assert!(store.channel_claim(lease(1), 10).await.expect("asked").is_empty(), "it pauses");
    // Configured anew it is tried at once.
    let changed = store.channel_change_by(ann.team, ann.user, id, ChannelChange::Configure(b"other"), &[]).await;
    assert!(matches!(changed, Ok(TeamAct::Done(_))));
    let work = store.channel_claim(living, 10).await.expect("asked").pop().expect("due");
    assert_eq!(
        (of(&work.event.payload), work.event.attempts, work.config.as_slice()),
        (events[1].id, 1, &b"other"[..])
    );
    store.channel_finish(living.owner, id, work.event.seq, false).await.expect("finished");
    store.channel_postpone(living.owner, id, Duration::ZERO).await.expect("given back");
    let next = store.channel_claim_one(living, id).await.expect("asked").expect("the last").event;
    assert_eq!(of(&next.payload), events[2].id);
    // Who lost the channel counts nothing for it any more.
    store.channel_finish(dead.owner, id, next.seq, false).await.expect("asked");
    let row = store.channel_get(ann.team, id).await.expect("asked").expect("is there");
    assert_eq!((row.waiting, row.given_up, row.failure.map(|(_, why)| why)), (0, 1, Some("no".to_owned())));
}
