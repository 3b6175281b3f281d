//! Compiles the program of the demo image, so that the image can be carried in the binary and needs no registry.
//!
//! One call of the compiler with the standard library only, linked statically, since the image holds nothing else. Where
//! the C library has no static form, the build goes on without the demo image and says so.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=demo");
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let program = PathBuf::from(variable("OUT_DIR")).join("demo");
    let mut compiler = Command::new(variable("RUSTC"));
    compiler
        .args(["--edition", "2024", "--crate-type", "bin", "--crate-name", "demo"])
        .args(["--target", &variable("TARGET")])
        .args(["-C", "opt-level=z", "-C", "panic=abort", "-C", "strip=symbols", "-C", "lto=fat"])
        .args(["-C", "codegen-units=1", "-C", "target-feature=+crt-static"])
        .args(["-C", "relocation-model=static"])
        .arg("-o")
        .arg(&program)
        .arg("demo/main.rs");
    let linker = variable("RUSTC_LINKER");
    if !linker.is_empty() {
        compiler.args(["-C", &format!("linker={linker}")]);
    }
    let compiled = match compiler.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = compiled {
        let line = error.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        println!("cargo:warning=no demo image in this build, its static program did not compile: {line}");
        std::fs::write(&program, []).expect("the output directory is writable");
    }
}
