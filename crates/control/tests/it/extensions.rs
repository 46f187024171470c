//! What a distribution adds, and what it cannot break.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension as Ext, Router};
use futures::FutureExt;
use futures::future::join_all;
use serde_json::json;
use wrenn_control::Extension;
use wrenn_control::extension::{
    AuthHook, BoxFuture, ExtensionError, Limits, LimitsProvider, NewAccount, RequireAdmin, RequireSession,
    RequireSessionOrApiKey, SandboxEvent, SandboxEventHook, SandboxEventKind, ServerContext, SessionUser, Usage,
    UsageProvider, Worker, require_admin, require_session,
};
use wrenn_control::fault::FaultPoint;
use wrenn_domain::ids::{EventId, TeamId, UserId};
use wrenn_testkit::wait_until;

use crate::harness::{Plane, SOON, config, trap};
use crate::people::{House, PASSWORD};

/// An extension whose parts a test switches while it runs.
#[derive(Default)]
struct Probe {
    signup_fails: AtomicBool,
    signup_panics: AtomicBool,
    limits: Mutex<Limits>,
    limits_fail: AtomicBool,
    usage: Mutex<Option<Result<Usage, &'static str>>>,
    /// Deliveries that fail before one works.
    events_fail: AtomicU32,
    events_panic: AtomicBool,
    calls: Mutex<Vec<String>>,
    events: Mutex<Vec<SandboxEvent>>,
    tries: Mutex<Vec<EventId>>,
    worker_runs: AtomicU32,
}

#[derive(Clone)]
struct Part(Arc<Probe>);

impl Probe {
    fn note(&self, call: String) {
        self.calls.lock().expect("whole").push(call);
    }

    fn called(&self, call: &str) -> bool {
        self.calls.lock().expect("whole").iter().any(|c| c == call)
    }

    fn kinds(&self) -> Vec<SandboxEventKind> {
        self.events.lock().expect("whole").iter().map(|e| e.kind).collect()
    }
}

impl Extension for Part {
    fn name(&self) -> &str {
        "probe"
    }

    fn routes(&self, ctx: &ServerContext) -> Router {
        async fn session(RequireSession(user): RequireSession) -> String {
            user.email
        }
        async fn either(RequireSessionOrApiKey(actor): RequireSessionOrApiKey) -> String {
            actor.team.to_string()
        }
        async fn admin(RequireAdmin(user): RequireAdmin) -> String {
            user.email
        }
        async fn layered(Ext(user): Ext<SessionUser>, State(ctx): State<ServerContext>) -> String {
            format!("{} {}", user.email, ctx.version())
        }
        async fn broken() -> String {
            panic!("on purpose")
        }
        Router::new()
            .route("/x/session", get(session).post(session))
            .route("/x/either", get(either))
            .route("/x/admin", get(admin))
            .route("/x/layered", get(layered).layer(from_fn_with_state(ctx.clone(), require_session)))
            .route("/x/layered-admin", get(layered).layer(from_fn_with_state(ctx.clone(), require_admin)))
            .route("/x/broken", get(broken))
            .with_state(ctx.clone())
    }

    fn middleware(&self, _ctx: &ServerContext, core: Router) -> Router {
        async fn mark(request: axum::extract::Request, next: Next) -> Response {
            if request.uri().query() == Some("panic") {
                panic!("on purpose");
            }
            let mut response = next.run(request).await;
            response.headers_mut().insert("x-probe", http::HeaderValue::from_static("seen"));
            response
        }
        core.layer(from_fn(mark))
    }

    fn background_workers(&self, _ctx: &ServerContext) -> Vec<Worker> {
        let probe = self.0.clone();
        vec![Worker::new("probe_worker", move |_| {
            let probe = probe.clone();
            async move {
                probe.worker_runs.fetch_add(1, Ordering::SeqCst);
                panic!("on purpose")
            }
        })]
    }

    fn auth_hook(&self) -> Option<&dyn AuthHook> {
        Some(self)
    }

    fn sandbox_event_hook(&self) -> Option<&dyn SandboxEventHook> {
        Some(self)
    }

    fn limits_provider(&self) -> Option<&dyn LimitsProvider> {
        Some(self)
    }

    fn usage_provider(&self) -> Option<&dyn UsageProvider> {
        Some(self)
    }
}

impl AuthHook for Part {
    fn on_signup<'a>(
        &'a self,
        _ctx: &'a ServerContext,
        account: &'a NewAccount,
    ) -> BoxFuture<'a, Result<(), ExtensionError>> {
        async move {
            self.0.note(format!("signup {} {}", account.email, account.team));
            assert!(!self.0.signup_panics.load(Ordering::SeqCst), "on purpose");
            if self.0.signup_fails.load(Ordering::SeqCst) { Err("no billing".into()) } else { Ok(()) }
        }
        .boxed()
    }

    fn on_login<'a>(&'a self, _ctx: &'a ServerContext, user: UserId) -> BoxFuture<'a, Result<(), ExtensionError>> {
        self.0.note(format!("login {user}"));
        panic!("on purpose")
    }

    fn on_account_soft_delete<'a>(
        &'a self,
        _ctx: &'a ServerContext,
        user: UserId,
    ) -> BoxFuture<'a, Result<(), ExtensionError>> {
        self.0.note(format!("soft {user}"));
        async { Err("ignored".into()) }.boxed()
    }

    fn on_account_hard_delete<'a>(
        &'a self,
        _ctx: &'a ServerContext,
        user: UserId,
    ) -> BoxFuture<'a, Result<(), ExtensionError>> {
        self.0.note(format!("hard {user}"));
        async { Ok(()) }.boxed()
    }
}

impl SandboxEventHook for Part {
    fn on_sandbox_event<'a>(
        &'a self,
        _ctx: &'a ServerContext,
        event: &'a SandboxEvent,
    ) -> BoxFuture<'a, Result<(), ExtensionError>> {
        async move {
            self.0.tries.lock().expect("whole").push(event.id);
            assert!(!self.0.events_panic.load(Ordering::SeqCst), "on purpose");
            let failing = self.0.events_fail.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            if failing.is_ok() {
                return Err("not now".into());
            }
            self.0.events.lock().expect("whole").push(event.clone());
            Ok(())
        }
        .boxed()
    }
}

impl LimitsProvider for Part {
    fn effective_limits<'a>(
        &'a self,
        _ctx: &'a ServerContext,
        _team: TeamId,
    ) -> BoxFuture<'a, Result<Limits, ExtensionError>> {
        let limits = *self.0.limits.lock().expect("whole");
        let fails = self.0.limits_fail.load(Ordering::SeqCst);
        async move { if fails { Err("no plan".into()) } else { Ok(limits) } }.boxed()
    }
}

impl UsageProvider for Part {
    fn current_usage<'a>(
        &'a self,
        _ctx: &'a ServerContext,
        _team: TeamId,
        counted: Usage,
    ) -> BoxFuture<'a, Result<Usage, ExtensionError>> {
        let usage = self.0.usage.lock().expect("whole").unwrap_or(Ok(counted));
        async move { usage.map_err(Into::into) }.boxed()
    }
}

async fn house() -> (House, Arc<Probe>) {
    let probe = Arc::new(Probe::default());
    let part = Part(probe.clone());
    (House::with(&[], |builder| builder.extension(part)).await, probe)
}

#[tokio::test]
async fn routes_guards_and_middleware_of_an_extension_work_and_its_panics_stay_its_own() {
    let (house, probe) = house().await;
    let mut admin = house.person("admin@example.com").await;
    let mut ann = house.person("ann@example.com").await;
    let (_, key) = ann.new_key().await;
    let api = ann.api(&key);
    let text = |answer: crate::harness::Answer| String::from_utf8(answer.body.to_vec()).expect("UTF-8");
    house.browser().get("/x/session").await.is_error(401, "unauthorized");
    api.get("/x/session").await.is_error(401, "unauthorized");
    assert_eq!(text(ann.get("/x/session").await), "ann@example.com");
    let mut no_csrf = ann.clone();
    no_csrf.cookies.remove("wrenn_csrf");
    no_csrf.post("/x/session", json!({})).await.is_error(403, "forbidden");
    assert_eq!(ann.post("/x/session", json!({})).await.status, 200);
    house.browser().get("/x/either").await.is_error(401, "unauthorized");
    assert_eq!(text(api.get("/x/either").await), ann.team());
    assert_eq!(text(ann.get("/x/either").await), ann.team());
    ann.get("/x/admin").await.is_error(403, "forbidden");
    assert_eq!(text(admin.get("/x/admin").await), "admin@example.com");
    house.browser().get("/x/layered").await.is_error(401, "unauthorized");
    assert_eq!(text(ann.get("/x/layered").await), "ann@example.com test");
    ann.get("/x/layered-admin").await.is_error(403, "forbidden");
    assert_eq!(text(admin.get("/x/layered-admin").await), "admin@example.com test");
    assert_eq!(ann.get("/v1/me").await.headers["x-probe"], "seen", "every core route is wrapped");
    assert!(!ann.get("/x/session").await.headers.contains_key("x-probe"), "and only those");
    ann.get("/x/broken").await.is_error(500, "internal_error");
    ann.get("/v1/me?panic").await.is_error(500, "internal_error");
    wait_until("the worker is started again", SOON, || async {
        (probe.worker_runs.load(Ordering::SeqCst) >= 2).then_some(())
    })
    .await;
    assert_eq!(admin.post("/v1/auth/logout", json!({})).await.status, 204, "all else goes on");
}

#[tokio::test]
async fn a_failed_sign_up_hook_leaves_nothing_half_made_and_the_same_link_works_later() {
    let (house, probe) = house().await;
    let token = house.pending("ann@example.com").await;
    let mut browser = house.browser();
    probe.signup_fails.store(true, Ordering::SeqCst);
    browser.post("/v1/auth/activate", json!({"token": token})).await.is_error(500, "signup_hook_failed");
    probe.signup_fails.store(false, Ordering::SeqCst);
    probe.signup_panics.store(true, Ordering::SeqCst);
    browser.post("/v1/auth/activate", json!({"token": token})).await.is_error(500, "signup_hook_failed");
    assert!(browser.cookies.is_empty());
    assert_eq!(house.count("SELECT count(*) FROM team_members").await, 0);
    let login = json!({"email": "ann@example.com", "password": PASSWORD});
    browser.post("/v1/auth/login", login).await.is_error(401, "unauthorized");
    probe.signup_panics.store(false, Ordering::SeqCst);
    let done = browser.post("/v1/auth/activate", json!({"token": token})).await;
    assert_eq!(done.status, 200, "{:?}", done.body);
    let calls = probe.calls.lock().expect("whole").clone();
    let signups: Vec<_> = calls.iter().filter(|c| c.starts_with("signup")).collect();
    assert_eq!(signups.len(), 3);
    assert!(signups.iter().all(|c| *c == signups[0]), "the same ids each time: {signups:?}");
    let user = done.json()["user_id"].as_str().expect("an id").to_owned();
    assert!(signups[0].contains(done.json()["team_id"].as_str().expect("an id")));
    wait_until("told of the login", SOON, || async { probe.called(&format!("login {user}")).then_some(()) }).await;
}

#[tokio::test]
async fn hooks_hear_of_an_accounts_end() {
    let (house, probe) = house().await;
    house.person("admin@example.com").await;
    let mut ann = house.person("ann@example.com").await;
    let gone = json!({"confirmation": "ann@example.com"});
    assert_eq!(ann.call(http::Method::DELETE, "/v1/me", gone).await.status, 204);
    let soft = format!("soft {}", ann.user());
    // It fails; that is logged and no more.
    wait_until("told", SOON, || async { probe.called(&soft).then_some(()) }).await;
    house.nothing_is_owed().await;
    assert_eq!(probe.calls.lock().expect("whole").iter().filter(|call| **call == soft).count(), 1);
}

#[tokio::test]
async fn a_kill_anywhere_around_the_purge_of_an_account_skips_no_hook() {
    for point in [FaultPoint::AccountPurged, FaultPoint::AccountHookClaimed, FaultPoint::AccountHookCalled] {
        let house = House::start().await;
        house.person("admin@example.com").await;
        let ann = house.person("ann@example.com").await;
        house
            .sql("UPDATE users SET status = 'deleted', deleted_at = now() - interval '16 days' WHERE email LIKE 'ann%'")
            .await;
        // The sweeper looks when a control plane starts; this one dies at the point, its heir lives. The house's own has no hooks
        // and leaves their errands alone.
        let (faults, mut told, armed) = trap(point);
        armed.store(true, Ordering::SeqCst);
        let (dying, heir) = (Arc::new(Probe::default()), Arc::new(Probe::default()));
        let part = Part(dying.clone());
        let plane = house.another_plane(&[], |builder| builder.extension(part).faults(faults)).await;
        let reached = tokio::time::timeout(SOON, told.recv()).await;
        reached.unwrap_or_else(|_| panic!("{point:?} is never reached"));
        plane.kill();
        let hard = format!("hard {}", ann.user());
        assert_eq!(dying.called(&hard), point == FaultPoint::AccountHookCalled, "{point:?}");
        assert_eq!(house.count("SELECT count(*) FROM users WHERE email LIKE 'ann%'").await, 0);
        let part = Part(heir.clone());
        let _next = house.another_plane(&[], |builder| builder.extension(part)).await;
        house.nothing_is_owed().await;
        assert!(heir.called(&hard), "{point:?}");
    }
}

#[tokio::test]
async fn limits_hold_for_parallel_creates_and_each_has_its_code() {
    let (house, probe) = house().await;
    let mut ann = house.person("ann@example.com").await;
    let (_, key) = ann.new_key().await;
    let api = ann.api(&key);
    let set = |limits: Limits| *probe.limits.lock().expect("whole") = limits;
    set(Limits { sandboxes_max: Some(3), ..Limits::NONE });
    let answers = join_all((0..10).map(|_| api.post("/v1/capsules", json!({})))).await;
    assert_eq!(answers.iter().filter(|a| a.status == 202).count(), 3);
    for refused in answers.iter().filter(|a| a.status != 202) {
        refused.is_error(402, "concurrent_sandbox_limit");
    }
    set(Limits { vcpus_max: Some(4), ..Limits::NONE });
    api.post("/v1/capsules", json!({"vcpus": 2})).await.is_error(402, "vcpu_limit");
    set(Limits { memory_mib_max: Some(2048), ..Limits::NONE });
    api.post("/v1/capsules", json!({"memory_mb": 1024})).await.is_error(402, "memory_limit");
    assert_eq!(api.post("/v1/capsules", json!({"memory_mb": 512})).await.status, 202);
    *probe.usage.lock().expect("whole") = Some(Err("no meter"));
    api.post("/v1/capsules", json!({})).await.is_error(402, "usage_unavailable");
    *probe.usage.lock().expect("whole") = Some(Ok(Usage { memory_mib: 4096, ..Usage::default() }));
    api.post("/v1/capsules", json!({})).await.is_error(402, "memory_limit");
    probe.limits_fail.store(true, Ordering::SeqCst);
    api.post("/v1/capsules", json!({})).await.is_error(402, "limits_unavailable");
    probe.limits_fail.store(false, Ordering::SeqCst);
    set(Limits::NONE);
    assert_eq!(api.post("/v1/capsules", json!({})).await.status, 202);
    // What ends frees its place.
    let ids = answers.iter().find(|a| a.status == 202).expect("one").json();
    assert_eq!(api.delete(&format!("/v1/capsules/{}", ids["id"].as_str().expect("an id"))).await.status, 202);
}

#[tokio::test]
async fn a_resume_and_a_fork_are_judged_like_a_create_and_told_like_one() {
    let (house, probe) = house().await;
    let mut ann = house.person("ann@example.com").await;
    let (_, key) = ann.new_key().await;
    let api = ann.api(&key);
    let set = |limits: Limits| *probe.limits.lock().expect("whole") = limits;
    let first = api.create_running().await;
    let path = |id: &str, act: &str| format!("/v1/capsules/{id}/{act}");
    assert_eq!(ann.post(&path(&first, "pause"), json!({})).await.status, 202);
    api.wait_status(&first, "paused").await;
    set(Limits { sandboxes_max: Some(1), ..Limits::NONE });
    let second = api.create_running().await;
    api.post(&path(&first, "resume"), json!({})).await.is_error(402, "concurrent_sandbox_limit");
    api.post(&path(&second, "fork"), json!({"count": 1})).await.is_error(402, "concurrent_sandbox_limit");
    set(Limits { sandboxes_max: Some(2), ..Limits::NONE });
    let again = path(&first, "resume");
    let both = tokio::join!(api.post(&again, json!({})), api.post("/v1/capsules", json!({})));
    let statuses = [both.0.status.as_u16(), both.1.status.as_u16()];
    assert!(statuses == [202, 402] || statuses == [402, 202], "one place is given once: {statuses:?}");
    set(Limits::NONE);
    assert_eq!(api.post(&path(&first, "resume"), json!({})).await.status, 202);
    api.wait_status(&first, "running").await;
    wait_until("pause and resume are told", SOON, || async {
        let kinds: Vec<_> = {
            let events = probe.events.lock().expect("whole");
            events.iter().filter(|e| e.sandbox.to_string() == first).map(|e| e.kind).collect()
        };
        (kinds == [SandboxEventKind::Created, SandboxEventKind::Paused, SandboxEventKind::Resumed]).then_some(())
    })
    .await;
    let log = ann.get("/v1/audit-logs?resource_type=sandbox&action=pause,resume").await.json();
    assert!(log["items"].as_array().is_some_and(|rows| rows.len() >= 2), "{log}");
}

#[tokio::test]
async fn a_hook_hears_each_success_once_it_takes_it_however_often_it_fails_before() {
    let (house, probe) = house().await;
    let mut ann = house.person("ann@example.com").await;
    let (_, key) = ann.new_key().await;
    let api = ann.api(&key);
    probe.events_fail.store(3, Ordering::SeqCst);
    let id = api.create_running().await;
    wait_until("created is taken", SOON, || async { (probe.kinds() == [SandboxEventKind::Created]).then_some(()) })
        .await;
    let tries = probe.tries.lock().expect("whole").clone();
    assert_eq!(tries.len(), 4);
    assert!(tries.iter().all(|t| *t == tries[0]), "one event, one id");
    let event = probe.events.lock().expect("whole")[0].clone();
    assert_eq!((event.sandbox.to_string(), event.team.to_string()), (id.clone(), ann.team()));
    assert_eq!(api.delete(&format!("/v1/capsules/{id}")).await.status, 202);
    wait_until("destroyed is taken", SOON, || async {
        (probe.kinds() == [SandboxEventKind::Created, SandboxEventKind::Destroyed]).then_some(())
    })
    .await;
    house.host.behave(|b| b.fail_starts = Some(("no_image".to_owned(), "no".to_owned())));
    let failed = api.create().await;
    api.wait_status(&failed, "error").await;
    house.host.behave(|b| b.fail_starts = None);
    api.create_running().await;
    wait_until("the next success", SOON, || async { (probe.kinds().len() == 3).then_some(()) }).await;
    assert_eq!(probe.kinds()[2], SandboxEventKind::Created, "a failure is no success");
    let log = ann.get("/v1/audit-logs?resource_type=sandbox&action=create").await.json();
    assert!(
        log["items"].as_array().expect("rows").iter().any(|r| r["status"] == "error" && r["actor_type"] == "system")
    );
}

#[tokio::test]
async fn an_event_under_way_when_the_process_dies_or_redis_is_emptied_is_delivered_all_the_same() {
    let probe = Arc::new(Probe::default());
    let part = Part(probe.clone());
    let house = House::with(&[], |builder| builder.extension(part.clone())).await;
    let mut ann = house.person("ann@example.com").await;
    let (_, key) = ann.new_key().await;
    probe.events_panic.store(true, Ordering::SeqCst);
    ann.api(&key).create_running().await;
    wait_until("it is tried", SOON, || async { (!probe.tries.lock().expect("whole").is_empty()).then_some(()) }).await;
    let House { database, host, plane, .. } = &house;
    let next = Plane::launch(config(&database.url, database, host), |builder| builder.extension(part)).await;
    let _ = plane;
    house.empty_redis().await;
    probe.events_panic.store(false, Ordering::SeqCst);
    wait_until("it is delivered", SOON, || async { (!probe.kinds().is_empty()).then_some(()) }).await;
    let id = next.api(&key).create_running().await;
    wait_until("and the next", SOON, || async {
        probe.events.lock().expect("whole").iter().any(|e| e.sandbox.to_string() == id).then_some(())
    })
    .await;
    assert_eq!(probe.kinds().len(), 2, "each once");
}

#[tokio::test]
async fn an_event_no_try_delivers_lies_with_the_dead_letters_until_an_admin_retries_it() {
    let (house, probe) = house().await;
    let mut admin = house.person("admin@example.com").await;
    let (_, key) = admin.new_key().await;
    probe.events_panic.store(true, Ordering::SeqCst);
    let id = admin.api(&key).create_running().await;
    let letters = wait_until("it is given up", SOON, || async {
        let letters = admin.get("/v1/admin/events/dead").await.json();
        (!letters["items"].as_array().expect("a list").is_empty()).then_some(letters)
    })
    .await;
    let letter = &letters["items"][0];
    assert_eq!((letter["resource_id"].as_str(), letter["event"].as_str()), (Some(id.as_str()), Some("capsule.create")));
    assert_eq!(letter["attempts"], 8);
    assert!(letter["error"].as_str().is_some_and(|e| e.contains("probe") && e.contains("panicked")), "{letter}");
    let retry = json!({"event_id": letter["event_id"], "group": letter["group"]});
    probe.events_panic.store(false, Ordering::SeqCst);
    assert_eq!(admin.post("/v1/admin/events/dead/retry", retry.clone()).await.status, 202);
    wait_until("it is delivered", SOON, || async { (!probe.kinds().is_empty()).then_some(()) }).await;
    admin.post("/v1/admin/events/dead/retry", retry).await.is_error(404, "not_found");
    assert_eq!(admin.get("/v1/admin/events/dead").await.json()["items"], json!([]));
    let bad = json!({"event_id": "x", "group": "g"});
    admin.post("/v1/admin/events/dead/retry", bad).await.is_error(400, "invalid_request");
}

#[tokio::test]
async fn an_extension_that_claims_a_core_path_is_refused_at_the_start() {
    struct Thief;
    impl Extension for Thief {
        fn name(&self) -> &str {
            "thief"
        }
        fn routes(&self, _ctx: &ServerContext) -> Router {
            Router::new().route("/v1/me", get(async || "mine"))
        }
    }
    let house = House::start().await;
    let config = config(&house.database.url, &house.database, &house.host);
    let bound = wrenn_control::Server::builder().config(config).extension(Thief).bind().await;
    let error = format!("{:#}", bound.err().expect("refused"));
    assert!(error.contains("/v1/me"), "{error}");
}
