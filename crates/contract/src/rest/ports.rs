//! `/v1/capsules/{id}/ports/{port}/tunnel`: raw TCP over a WebSocket. Binary frames are bytes.

/// Text frame by which either side says that it sends no more.
pub const TUNNEL_EOF: &str = "eof";
