//! Generates message types, service traits and clients from proto/.

fn main() {
    let mut files = Vec::new();
    if std::env::var_os("CARGO_FEATURE_GUEST").is_some() {
        files.extend(["proto/process.proto", "proto/filesystem.proto"]);
    }
    if std::env::var_os("CARGO_FEATURE_HOST").is_some() {
        files.push("proto/host.proto");
    }
    if files.is_empty() {
        return;
    }
    connectrpc_build::Config::new()
        .files(&files)
        .includes(&["proto/"])
        .include_file("_connectrpc.rs")
        .gate_client_feature(true)
        .compile()
        .expect("protoc (Debian package protobuf-compiler) must be installed");
}
