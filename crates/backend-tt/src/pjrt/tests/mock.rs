//! Tenstorrent's plugin, without a card: what it says, and what it compiles for a mock of one.
//!
//! It runs in children of this program: the first run builds kernels for half a minute, later ones take seconds.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Completion, Failed, Trial};
use smolvla_backend_tt::pjrt::child::{Children, MOCK_VARIABLE, as_child as run_as_child};
use smolvla_backend_tt::pjrt::{
    Argument, BlockFloat, Client, CompileOptions, ElementType, ErrorCode, MathFidelity, Mock, Numeric,
    PjrtError, Plugin, TenstorrentOptions,
};
use smolvla_core::backend::BackendErrorKind;

use super::programs::{self, Program};
use super::{tenstorrent_plugin, with};

/// Where the kernel driver puts cards.
const CARDS: &str = "/dev/tenstorrent";

pub(super) fn trials() -> Vec<Trial> {
    let without_a_card = Trial::ignorable_test("tenstorrent::a_machine_without_a_card_is_an_error", || {
        if Path::new(CARDS).exists() {
            return Ok(Completion::ignored_with("there is a card here"));
        }
        match tenstorrent_plugin() {
            Ok(plugin) => start("without_a_card", &plugin, false).map(|()| Completion::Completed),
            Err(reason) => Ok(Completion::ignored_with(reason)),
        }
    });
    let mock = with(tenstorrent_plugin, "tenstorrent::programs_compile_for_a_mock_card", |plugin| {
        start("mock", plugin, true)
    });
    vec![without_a_card, mock]
}

/// What this process does as a child, if it is one.
pub(super) fn as_child() -> Option<ExitCode> {
    run_as_child(|task, plugin| {
        let outcome = if task == "mock" { mock(plugin) } else { without_a_card(plugin) };
        outcome.map_err(|error| error.message().unwrap_or("no message").to_owned())
    })
}

fn start(task: &str, plugin: &Path, mock: bool) -> Result<(), Failed> {
    let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("tenstorrent");
    Children::new(plugin, scratch).run(task, mock).map(drop).map_err(Failed::from)
}

fn without_a_card(plugin: &Plugin) -> Result<(), Failed> {
    assert!(plugin.is_tenstorrent() && plugin.mock_variable().is_none());
    let error = Client::<Numeric>::open(plugin).unwrap_err();
    assert!(matches!(error, PjrtError::NoDevice(_)) && error.to_string().contains(CARDS), "{error}");
    // Whoever opens a backend is also told what is missing.
    let error = smolvla_backend_tt::open_plugin(Some(plugin.path())).unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unavailable, "{error}");
    for problem in smolvla_backend_tt::probe::probe().problems() {
        assert!(error.message.contains(&problem), "{error}");
    }
    Ok(())
}

fn mock(plugin: &Plugin) -> Result<(), Failed> {
    assert_eq!(plugin.mock_variable(), Some(MOCK_VARIABLE));
    let error = Client::<Numeric>::open(plugin).unwrap_err();
    assert!(matches!(error, PjrtError::WrongMode(_)) && error.to_string().contains(MOCK_VARIABLE), "{error}");

    let client = Client::<Mock>::open(plugin)?;
    assert_eq!((client.platform(), client.device().kind.as_str()), ("tt", "Blackhole"));
    fusion(&client)?;
    precision(&client)?;
    refusals(&client)?;
    execution(&client)
}

/// The program after the compiler has chosen operations of ttnn, without what makes parameters ready.
fn compiled(
    client: &Client<Mock>,
    program: &Program,
    options: &TenstorrentOptions,
) -> Result<String, Failed> {
    let folder = tempfile::tempdir()?;
    let export = Some((folder.path().to_owned(), "model".to_owned()));
    let options = TenstorrentOptions { export, ..options.clone() };
    client.compile(&program.mlir, &CompileOptions::from(&options))?;
    for entry in std::fs::read_dir(folder.path().join("irs"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("ttnn_model_") {
            return Ok(std::fs::read_to_string(entry.path())?);
        }
    }
    Err("the plugin exported no program in operations of ttnn".into())
}

/// The lines of an operation.
fn lines<'a>(program: &'a str, operation: &str) -> Vec<&'a str> {
    let name = format!("\"ttnn.{operation}\"");
    program.lines().filter(|line| line.contains(&name)).collect()
}

fn fusion(client: &Client<Mock>) -> Result<(), Failed> {
    let compiled =
        |name: &str| compiled(client, &programs::named(name, true), &TenstorrentOptions::default());
    for name in ["linear_f32", "linear_bf16"] {
        let text = compiled(name)?;
        let linear = lines(&text, "linear");
        assert_eq!((linear.len(), lines(&text, "add").len()), (1, 0), "{text}");
        assert!(linear[0].contains("math_fidelity = hifi4, fp32_dest_acc_en = true"), "{}", linear[0]);
        assert!(linear[0].contains("transpose_b = true"), "{}", linear[0]);
    }
    let text = compiled("rms_norm")?;
    assert_eq!((lines(&text, "rms_norm").len(), lines(&text, "rsqrt").len()), (1, 0), "{text}");
    let text = compiled("attention")?;
    let found = ["matmul", "softmax", "exp"].map(|operation| lines(&text, operation).len());
    assert_eq!(found, [2, 1, 0], "{text}");
    Ok(())
}

fn precision(client: &Client<Mock>) -> Result<(), Failed> {
    let linear = programs::named("linear_bf16", true);
    let options = TenstorrentOptions {
        math_fidelity: Some(MathFidelity::HiFi2),
        fp32_accumulation: Some(false),
        weights: Some(BlockFloat::Bfp8),
        ..TenstorrentOptions::default()
    };
    let text = compiled(client, &linear, &options)?;
    let product = lines(&text, "linear");
    assert!(product[0].contains("math_fidelity = hifi2, fp32_dest_acc_en = false"), "{}", product[0]);
    let casts = lines(&text, "typecast");
    assert!(casts.len() == 1 && casts[0].contains("bfp_bf8"), "{casts:?}");

    // An input that is not marked as a parameter is not converted.
    let unmarked = programs::named("linear_bf16", false);
    assert!(lines(&compiled(client, &unmarked, &options)?, "typecast").is_empty());

    // Or one parameter by itself: the first of this program is the weight.
    let mut mixed = programs::named("linear_bf16", true);
    let (parameter, single) = ("<parameter>", "<parameter>, ttcore.weight_dtype = \"bfp_bf4\"");
    mixed.mlir = mixed.mlir.replacen(parameter, single, 1);
    let text = compiled(client, &mixed, &TenstorrentOptions::default())?;
    let casts = lines(&text, "typecast");
    assert!(casts.len() == 1 && casts[0].contains("bfp_bf4"), "{casts:?}");

    // Norms keep their fidelity.
    let text = compiled(client, &programs::named("rms_norm", true), &options)?;
    assert!(lines(&text, "rms_norm")[0].contains("math_fidelity = hifi4"), "{text}");
    Ok(())
}

fn refusals(client: &Client<Mock>) -> Result<(), Failed> {
    let mlir = programs::named("linear_bf16", true).mlir;
    for options in [
        CompileOptions::default().with("no_such_option", 1),
        CompileOptions::default().with("math_fidelity", "hifi9"),
    ] {
        let error = client.compile(&mlir, &options).unwrap_err();
        let PjrtError::Call { call, code, message } = error else { panic!("{error}") };
        assert_eq!((call, code), ("PJRT_Client_Compile", ErrorCode::InvalidArgument), "{message}");
    }
    let error = client.compile("no program", &CompileOptions::default()).unwrap_err();
    assert!(matches!(error, PjrtError::Call { call: "PJRT_Client_Compile", .. }), "{error}");
    Ok(())
}

/// Builds the kernels of one program; what they leave is not looked at.
fn execution(client: &Client<Mock>) -> Result<(), Failed> {
    let program = programs::named("linear_bf16", true);
    let executable = client.compile(&program.mlir, &CompileOptions::default())?;
    let upload = || -> Result<Vec<_>, PjrtError> {
        let upload = |(element, sizes): &(ElementType, Vec<usize>)| {
            client.upload(&vec![0; element.array_bytes(sizes)?], *element, sizes)
        };
        program.inputs.iter().map(upload).collect()
    };
    let inputs = upload()?;
    for _ in 0..2 {
        let outputs = executable.execute(inputs.iter().map(Argument::from))?;
        outputs[0].wait()?;
        assert_eq!(outputs[0].dimensions(), [programs::ROWS, programs::OUTPUTS]);
    }
    let outputs = executable.execute(inputs.into_iter().map(Argument::from))?;
    outputs[0].wait()?;
    Ok(())
}
