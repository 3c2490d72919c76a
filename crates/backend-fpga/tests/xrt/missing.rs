//! What is said where something is not there.

use std::fs;
use std::path::Path;

use libtest_mimic::{Completion, Failed, Trial};
use smolvla_backend_fpga::xrt::{self, XrtDevice};

use super::harness::{Answer, DESIGN_VARIABLE, Place};

/// The child: what opening a device says.
pub(super) fn open() -> String {
    let design = std::env::var_os(DESIGN_VARIABLE).unwrap_or_default();
    match XrtDevice::open(0, Path::new(&design)) {
        Ok(_) => "opened".to_owned(),
        Err(error) => format!("{:?}: {error}", error.kind),
    }
}

pub(super) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("missing::variable_is_an_error", || {
            says(&Place::new(false), &[], &["Unavailable", "XILINX_XRT is not set", "setup.sh"])
        }),
        Trial::test("missing::library_is_an_error", || {
            let place = Place::new(false);
            let root = place.folder.path();
            says(&place, &[("XILINX_XRT", root)], &["Unavailable", "there is no", "lib/libxrt_coreutil.so.2"])
        }),
        Trial::test("missing::broken_library_is_an_error", || {
            let place = Place::new(false);
            let root = place.folder.path();
            stubs(root);
            says(&place, &[("XILINX_XRT", root)], &["Unavailable", "could not load", "libxrt_coreutil.so.2"])
        }),
        Trial::test("missing::emulation_that_computes_nothing_is_refused", || {
            let place = Place::new(true);
            let variables = [("XILINX_XRT", place.folder.path()), ("XCL_EMULATION_MODE", Path::new("noop"))];
            says(&place, &variables, &["Unavailable", "`noop`", "sw_emu"])
        }),
        Trial::test("missing::broken_design_is_an_error", || {
            let place = Place::new(false);
            let root = place.folder.path();
            stubs(root);
            let bytes = fs::read(&place.design)?;
            fs::write(&place.design, &bytes[..bytes.len() / 2])?;
            says(
                &place,
                &[("XILINX_XRT", root)],
                &["Unavailable", "design.xclbin is not a design", "its header says"],
            )
        }),
        Trial::ignorable_test("missing::card_is_an_error", || {
            if !xrt::probe().cards.is_empty() {
                return Ok(Completion::ignored_with("there is a card here"));
            }
            let place = Place::new(false);
            match place.debian_root() {
                Err(reason) => Ok(Completion::ignored_with(reason)),
                Ok(root) => {
                    says(
                        &place,
                        &[("XILINX_XRT", &root)],
                        &["Unavailable", "XRT has no device 0", "xbutil"],
                    )?;
                    Ok(Completion::Completed)
                }
            }
        }),
    ]
}

/// Files with the names of XRT's libraries.
fn stubs(root: &Path) {
    fs::create_dir(root.join("lib")).unwrap();
    for name in ["libxrt_coreutil.so.2", "libxrt_core.so.2"] {
        fs::write(root.join("lib").join(name), "not a library").unwrap();
    }
}

/// A child that opens a device says all of this.
fn says(place: &Place, variables: &[(&str, &Path)], expected: &[&str]) -> Result<(), Failed> {
    let Answer::Said(text) = place.child("open", variables)? else { return Err("ignored".into()) };
    match expected.iter().find(|part| !text.contains(**part)) {
        None => Ok(()),
        Some(part) => Err(format!("no `{part}` in: {text}").into()),
    }
}
