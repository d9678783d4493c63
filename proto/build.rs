//! Generates the message types of `proto/*.proto` at build time, without a `protoc` on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/remote_write_v1.proto", "proto/remote_write_v2.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    prost_build::Config::new().compile_fds(protox::compile(files, ["proto"])?)?;
    Ok(())
}
