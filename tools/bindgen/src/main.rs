//! `bindgen IN.wasm OUT_FOLDER NAME`: the module without its custom sections, its JavaScript glue and the types of that.

use std::process::ExitCode;
use wasm_bindgen_cli_support::Bindgen;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, output, name] = arguments.as_slice() else {
        eprintln!("usage: bindgen IN.wasm OUT_FOLDER NAME");
        return ExitCode::from(2);
    };
    let made = Bindgen::new().input_path(input).web(true).and_then(|bindgen| {
        bindgen
            .typescript(true)
            .out_name(name)
            .omit_default_module_path(true) // the worker says where the module is
            .remove_name_section(true)
            .remove_producers_section(true)
            .generate(output)
    });
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{input}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
