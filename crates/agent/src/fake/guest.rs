//! The envd of fake guests: it takes its identity, and only from who knows the token.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use wrenn_contract::guest::{INIT, Init, InitDone, TOKEN_HEADER};

use super::machine::FakeVm;
use super::world::World;
use crate::mutex::lock;

/// A body of the agent's is smaller than this.
const BODY_BYTES_MAX: usize = 1 << 20;

#[derive(Clone)]
struct Door {
    world: Weak<World>,
    slot: u32,
}

/// Serves the guests that will be in this slot; returns where.
pub fn serve(world: &Arc<World>, slot: u32) -> SocketAddr {
    let _entered = world.enter();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("it is bound");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
    let app = axum::Router::new().fallback(answer).with_state(Door { world: Arc::downgrade(world), slot });
    world.spawn(async move { drop(axum::serve(listener, app).await) });
    address
}

async fn answer(State(door): State<Door>, request: Request) -> Response {
    let vm = door.world.upgrade().and_then(|world| world.in_slot(door.slot));
    let Some(vm) = vm.filter(|vm| !vm.is_silent && lock(&vm.guest).as_ref().is_some_and(|guest| !guest.is_paused))
    else {
        // Nobody is there, stands still, or never answers: the caller waits.
        return std::future::pending().await;
    };
    let given = request.headers().get(TOKEN_HEADER).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let is_init = request.uri().path() == INIT;
    let body = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await.unwrap_or_default();
    if !lock(&vm.guest).as_ref().is_some_and(|guest| guest.memory.token.is_empty() || guest.memory.token == given) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    match (is_init, serde_json::from_slice(&body)) {
        (false, _) => StatusCode::OK.into_response(),
        (true, Ok(init)) => Json(take_identity(&vm, init)).into_response(),
        (true, Err(_)) => StatusCode::BAD_REQUEST.into_response(),
    }
}

fn take_identity(vm: &FakeVm, init: Init) -> InitDone {
    let mut guest = lock(&vm.guest);
    let memory = &mut guest.as_mut().expect("it was there").memory;
    if let Some(token) = init.access_token {
        memory.token = token;
    }
    if let Some(lifecycle) = &init.lifecycle_id {
        memory.lifecycle.clone_from(lifecycle);
    }
    InitDone {
        lifecycle_id: init.lifecycle_id,
        version: "fake".to_owned(),
        kernel_version: "fake".to_owned(),
        entropy_reseeded: true,
        clock_offset_ns: Some(0),
        root_bytes: 0,
    }
}
