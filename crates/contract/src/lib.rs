//! What crosses a process boundary, and nothing else.
//!
//! - [`proto`]: generated from `proto/`: `process` and `filesystem` (agent and control plane to envd),
//!   `wrenn::host::v1` (control plane to agent).
//! - [`guest`]: envd's plain HTTP surface: paths, headers, JSON bodies.
//! - [`host`]: the agent's guest relay: paths and headers.
//! - [`hop`]: the headers every relay and proxy of ours takes off.
//! - [`rest`]: the public API's JSON shapes and error codes. Here, and only here, "sandbox" becomes "capsule".
//!
//! Must never: do I/O, know SQL, or hold a rule that is not about shape.

#[cfg(feature = "guest")]
pub mod guest;
#[cfg(feature = "host")]
pub mod hop_by_hop;
#[cfg(feature = "host")]
pub mod host;
#[cfg(any(feature = "guest", feature = "host"))]
#[allow(missing_docs, clippy::all)]
pub mod proto {
    //! Generated message types, service traits and clients.
    connectrpc::include_generated!();
}
#[cfg(feature = "rest")]
pub mod rest;
