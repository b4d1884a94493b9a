//! Every verb on every backend against the plain loops. The same suite runs in browsers.

use mobilellm_web::backend::Precision;
use mobilellm_web::backend::cpu::Cpu;
use mobilellm_web::backend::cpu::naive::Naive;
use mobilellm_web::conformance::check;

/// The suite itself: the oracle agrees with itself, to the bit.
#[test]
fn oracle() {
    let report = pollster::block_on(check(|config| Ok(Naive::new(config)), Precision::F16, 0.0)).unwrap();
    println!("{report}");
    report.into_result().unwrap();
}

/// One thread: in `src/conformance.rs`, which is run in wasm too.
#[test]
fn cpu_threads() {
    for (precision, tolerance) in [(Precision::F16, 1e-4), (Precision::Q8, 2e-3)] {
        let make = |config: &_| Ok(Cpu::with_threads(config, precision, 3));
        let report = pollster::block_on(check(make, precision, tolerance)).unwrap();
        println!("3 threads, {precision:?}: {report}");
        report.into_result().unwrap();
    }
}

/// The GPU, through whatever driver there is. Without one the test fails: leave out the feature `gpu` there.
#[cfg(feature = "gpu")]
mod gpu {
    use super::check;
    use mobilellm_web::backend::Precision;
    use mobilellm_web::backend::gpu::{Device, DeviceOptions, Gpu};

    fn run(options: &DeviceOptions, precision: Precision) -> Device {
        let device = pollster::block_on(Device::open(options)).unwrap();
        // Values are held as f16, with shader-f16 also the tiles of the many-row product.
        let tolerance = if device.variant().f16 { 5e-3 } else { 1e-3 };
        let make = |config: &_| Gpu::new(&device, config, precision);
        let report = pollster::block_on(check(make, precision, tolerance)).unwrap();
        println!("{}, {}, {precision:?}: {report}", device.name(), device.variant());
        report.into_result().unwrap();
        device
    }

    /// Everything that the adapter has.
    #[test]
    fn whole() {
        run(&DeviceOptions::default(), Precision::F16);
    }

    #[test]
    fn whole_q8() {
        run(&DeviceOptions::default(), Precision::Q8);
    }

    #[test]
    fn whole_q4() {
        run(&DeviceOptions::default(), Precision::Q4);
    }

    /// Tables over the binding limit; with subgroups alone. Here 8-bit weights, whose scales go by pairs; `plain` has the other.
    #[test]
    fn split() {
        let options = DeviceOptions { max_table_binding: Some(100_000), no_f16: true, ..DeviceOptions::default() };
        assert!(!run(&options, Precision::Q8).variant().f16);
    }

    /// Reductions in workgroup memory.
    #[test]
    fn plain() {
        let options = DeviceOptions {
            no_subgroups: true,
            no_f16: true,
            max_table_binding: Some(100_000),
            ..DeviceOptions::default()
        };
        assert_eq!(run(&options, Precision::F16).variant().features(), Vec::<String>::new());
    }
}
