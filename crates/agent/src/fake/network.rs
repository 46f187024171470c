//! Fake network slots: each guest has a port of this machine's loopback.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use tokio::net::TcpSocket;

use super::guest::serve;
use super::world::{SlotState, World};
use crate::mutex::lock;
use crate::network::{NetworkError, Slot, Slots};
use crate::sockets::Sockets;

/// The slots of the fake host, as one agent sees them.
pub struct FakeSlots {
    world: Arc<World>,
    /// Numbers this agent has handed out or adopted.
    taken: Mutex<Vec<u32>>,
}

impl FakeSlots {
    /// Sees the slots of a fake host.
    pub fn new(world: Arc<World>) -> Self {
        Self { world, taken: Mutex::default() }
    }

    fn slot(&self, number: u32) -> Box<dyn Slot> {
        lock(&self.taken).push(number);
        Box::new(FakeSlot { number, world: Arc::clone(&self.world) })
    }
}

impl Slots for FakeSlots {
    fn take(&self) -> BoxFuture<'_, Result<Box<dyn Slot>, NetworkError>> {
        Box::pin(async move {
            let number = {
                let mut slots = lock(&self.world.slots);
                let number = (1..).find(|number| !slots.contains_key(number)).expect("numbers do not end");
                slots.insert(number, SlotState::default());
                number
            };
            let address = serve(&self.world, number);
            lock(&self.world.slots).insert(number, SlotState { guest: Some(address), ready: None });
            Ok(self.slot(number))
        })
    }

    fn adopt(&self, number: u32) -> Result<Box<dyn Slot>, NetworkError> {
        match lock(&self.world.slots).contains_key(&number) {
            true => Ok(self.slot(number)),
            false => Err(NetworkError::Full),
        }
    }

    fn discard(&self, number: u32) -> BoxFuture<'_, ()> {
        lock(&self.world.slots).remove(&number);
        lock(&self.taken).retain(|taken| *taken != number);
        Box::pin(async {})
    }

    fn discard_orphans(&self) -> BoxFuture<'_, Result<(), NetworkError>> {
        let taken = lock(&self.taken).clone();
        lock(&self.world.slots).retain(|number, _| taken.contains(number));
        Box::pin(async { Ok(()) })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), NetworkError>> {
        Box::pin(async { Ok(()) })
    }

    fn maintain(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

struct FakeSlot {
    number: u32,
    world: Arc<World>,
}

impl Slot for FakeSlot {
    fn number(&self) -> u32 {
        self.number
    }

    fn sockets(&self) -> Result<Arc<dyn Sockets>, NetworkError> {
        Ok(Arc::new(FakeSockets { number: self.number, world: Arc::clone(&self.world) }))
    }

    fn open_tap(&self) -> Result<OwnedFd, NetworkError> {
        // The fake driver reads from its tap which slot it is.
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(&self.number.to_le_bytes(), 0).expect("it can be written");
        Ok(file.into())
    }

    fn namespace(&self) -> Result<OwnedFd, NetworkError> {
        Ok(tempfile::tempfile().expect("a file").into())
    }

    fn vmm_user(&self) -> u32 {
        self.number
    }

    fn traffic_bytes(&self) -> BoxFuture<'_, io::Result<u64>> {
        Box::pin(async { Ok(0) })
    }
}

struct FakeSockets {
    number: u32,
    world: Arc<World>,
}

impl Sockets for FakeSockets {
    fn tcp(&self) -> io::Result<TcpSocket> {
        TcpSocket::new_v4()
    }

    fn ready(&self) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        if let Some(slot) = lock(&self.world.slots).get_mut(&self.number) {
            slot.ready = Some(socket.local_addr()?);
        }
        Ok(socket)
    }

    fn guest(&self, _: u16) -> SocketAddr {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
        lock(&self.world.slots).get(&self.number).and_then(|slot| slot.guest).unwrap_or(nowhere)
    }
}
