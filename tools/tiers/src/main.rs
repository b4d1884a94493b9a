//! The compiler that cargo is told to use for this workspace (RUSTC_WORKSPACE_WRAPPER) while it builds the package.
//!
//! Both tiers of wasm have the same dependencies, and linking one keeps a single core busy for a minute. Cargo cannot build a crate
//! twice with different flags in one run, and two runs wait for each other. So cargo builds the `simd128` tier, and this program
//! repeats the same command for the `relaxed` tier at the same time, into a folder `relaxed` beside the first.
//!
//! `TIERS_FLAGS`: what the second command has in addition, separated by spaces.

use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(rustc) = arguments.next() else {
        eprintln!("tiers is started by cargo, as RUSTC_WORKSPACE_WRAPPER");
        return ExitCode::from(2);
    };
    let arguments: Vec<_> = arguments.collect();
    let text: Vec<String> = arguments.iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let is_tier = text.windows(2).any(|pair| pair[0] == "--crate-type" && pair[1] == "cdylib");

    let second = if is_tier {
        let mut command = Command::new(&rustc);
        let mut is_folder = false;
        for argument in &arguments {
            if is_folder {
                let relaxed = PathBuf::from(argument).join("relaxed");
                if let Err(error) = std::fs::create_dir_all(&relaxed) {
                    return failed(&relaxed.to_string_lossy(), &error);
                }
                command.arg(relaxed);
            } else {
                command.arg(argument);
            }
            is_folder = argument == "--out-dir";
        }
        command.args(std::env::var("TIERS_FLAGS").unwrap_or_default().split_whitespace());
        // Messages about the code come from the first command.
        match command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn() {
            Ok(child) => Some(child),
            Err(error) => return failed(&rustc.to_string_lossy(), &error),
        }
    } else {
        None
    };

    let first = match Command::new(&rustc).args(&arguments).status() {
        Ok(status) => status,
        Err(error) => return failed(&rustc.to_string_lossy(), &error),
    };
    let Some(second) = second else { return code(first) };
    match second.wait_with_output() {
        Ok(second) if first.success() && !second.status.success() => {
            eprint!("{}", String::from_utf8_lossy(&second.stderr));
            code(second.status)
        }
        Ok(_) => code(first),
        Err(error) => failed(&rustc.to_string_lossy(), &error),
    }
}

fn code(status: ExitStatus) -> ExitCode {
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn failed(program: &str, error: &std::io::Error) -> ExitCode {
    eprintln!("{program}: {error}");
    ExitCode::FAILURE
}
