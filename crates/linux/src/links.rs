//! Interfaces, addresses, routes and neighbours over route netlink, in the namespace the [`Links`] was opened in.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use futures::TryStreamExt;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::netns::Netns;

/// A route netlink connection. Its background task ends when this is dropped.
pub struct Links {
    handle: Handle,
    task: tokio::task::JoinHandle<()>,
}

/// A change of the network failed.
#[derive(Debug, thiserror::Error)]
#[error("could not {act}")]
pub struct LinksError {
    act: String,
    source: io::Error,
}

type Outcome<T = ()> = Result<T, LinksError>;

fn failed(act: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> LinksError {
    let act = act.into();
    move |error| {
        let source = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other),
        };
        LinksError { act, source }
    }
}

impl Links {
    /// In the caller's own namespace.
    pub fn here() -> Outcome<Self> {
        Self::open().map_err(|source| LinksError { act: "open route netlink".into(), source })
    }

    /// Inside a namespace.
    pub fn inside(netns: &Netns) -> Outcome<Self> {
        let runtime = tokio::runtime::Handle::current();
        netns
            .run(|| {
                let _reactor = runtime.enter();
                Self::open()
            })
            .map_err(|source| LinksError { act: format!("open route netlink inside {}", netns.name()), source })
    }

    fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    /// Makes a pair of connected interfaces here and moves the second one into another namespace, given by an open file of it.
    pub async fn add_veth(&self, name: &str, peer: &str, peer_netns: &std::fs::File) -> Outcome {
        let act = format!("make interfaces {name} and {peer}");
        let pair = LinkVeth::new(name, peer).build();
        self.handle.link().add(pair).execute().await.map_err(failed(act.clone()))?;
        let moved = async {
            let index = self.index(peer).await?;
            let target = LinkUnspec::new_with_index(index).setns_by_fd(peer_netns.as_raw_fd()).build();
            self.handle.link().set(target).execute().await.map_err(failed(act))
        };
        let moved = moved.await;
        if moved.is_err() {
            let _ = self.remove(name).await;
        }
        moved
    }

    /// Gives an interface an address and brings it up.
    pub async fn configure(&self, name: &str, address: Ipv4Addr, prefix: u8) -> Outcome {
        let index = self.index(name).await?;
        let act = format!("give {name} the address {address}/{prefix}");
        self.handle.address().add(index, IpAddr::V4(address), prefix).execute().await.map_err(failed(act))?;
        self.up_index(name, index).await
    }

    /// Gives an interface a hardware address; it must be down.
    pub async fn set_mac(&self, name: &str, mac: [u8; 6]) -> Outcome {
        let index = self.index(name).await?;
        let link = LinkUnspec::new_with_index(index).address(mac.to_vec()).build();
        self.handle.link().set(link).execute().await.map_err(failed(format!("give {name} its hardware address")))
    }

    /// Brings an interface up.
    pub async fn up(&self, name: &str) -> Outcome {
        let index = self.index(name).await?;
        self.up_index(name, index).await
    }

    async fn up_index(&self, name: &str, index: u32) -> Outcome {
        let up = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(up).execute().await.map_err(failed(format!("bring {name} up")))
    }

    /// Default route by a gateway.
    pub async fn default_route(&self, gateway: Ipv4Addr) -> Outcome {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
        self.handle.route().add(route).execute().await.map_err(failed(format!("route by {gateway}")))
    }

    /// A neighbour that never has to be asked for.
    pub async fn neighbour(&self, name: &str, address: Ipv4Addr, mac: [u8; 6]) -> Outcome {
        let index = self.index(name).await?;
        self.handle
            .neighbours()
            .add(index, IpAddr::V4(address))
            .link_layer_address(&mac)
            .state(NeighbourState::Permanent)
            .replace()
            .execute()
            .await
            .map_err(failed(format!("fix the neighbour {address} on {name}")))
    }

    /// Removes an interface, and with it its peer; one that is not there is no error.
    pub async fn remove(&self, name: &str) -> Outcome {
        let Ok(index) = self.index(name).await else { return Ok(()) };
        match self.handle.link().del(index).execute().await.map_err(failed(format!("remove {name}"))) {
            Err(error) if error.source.raw_os_error() == Some(nix::libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Names of all interfaces that begin with `prefix`.
    pub async fn list(&self, prefix: &str) -> Outcome<Vec<String>> {
        let links = self.handle.link().get().execute();
        let links: Vec<_> = links.try_collect().await.map_err(failed("list interfaces"))?;
        let names = links.into_iter().flat_map(|link| link.attributes).filter_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        });
        Ok(names.filter(|name| name.starts_with(prefix)).collect())
    }

    /// Every IPv4 network this namespace has a route to, default routes left out.
    pub async fn ipv4_routes(&self) -> Outcome<Vec<(Ipv4Addr, u8)>> {
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes = self.handle.route().get(query).execute();
        let routes: Vec<_> = routes.try_collect().await.map_err(failed("list routes"))?;
        let networks = routes.into_iter().filter_map(|route| {
            let prefix = route.header.destination_prefix_length;
            route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(network)) => Some((*network, prefix)),
                _ => None,
            })
        });
        Ok(networks.collect())
    }

    async fn index(&self, name: &str) -> Outcome<u32> {
        let act = format!("find interface {name}");
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = links.try_next().await.map_err(failed(act.clone()))?;
        let missing = || LinksError { act, source: io::Error::from_raw_os_error(nix::libc::ENODEV) };
        link.map(|link| link.header.index).ok_or_else(missing)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.task.abort();
    }
}
