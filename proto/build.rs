//! Generates the message types and services of `proto/*.proto` at build time, without a `protoc` on the
//! machine.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let messages = [
        "proto/remote_write_v1.proto",
        "proto/remote_write_v2.proto",
        "proto/remote_read.proto",
        "proto/recording.proto",
    ];
    let scaler = ["proto/externalscaler.proto"];
    for file in messages.iter().chain(&scaler) {
        println!("cargo:rerun-if-changed={file}");
    }
    prost_build::Config::new().compile_fds(protox::compile(messages, ["proto"])?)?;

    let scaler = protox::compile(scaler, ["proto"])?;
    let server = tonic_prost_build::configure().build_client(false).build_transport(false);
    server.compile_fds(scaler.clone())?;
    // The client is for the tests only and lies apart.
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("client");
    std::fs::create_dir_all(&folder)?;
    let client = tonic_prost_build::configure().build_server(false).build_transport(false);
    client.out_dir(folder).compile_fds(scaler)?;
    Ok(())
}
