#![allow(clippy::print_stdout, reason = "the tests say what they compared, case by case")]

use safetensors::SafeTensors;

use super::*;

/// One matrix of bfloat16 patterns, and its number of columns.
fn matrix(file: &'static [u8], name: &str) -> (Vec<f32>, usize) {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    let widen = |&pair: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(pair)) << 16);
    (tensor.data().as_chunks::<2>().0.iter().map(widen).collect(), tensor.shape()[1])
}

const PACK: &[u8] = include_bytes!("fixtures/pack.safetensors");
const TILE: &[u8] = include_bytes!("fixtures/tile.safetensors");

/// Conversions on the host: file, input, output, format.
const HOST: [(&[u8], &str, &str, Format); 8] = [
    (PACK, "pack.x", "pack.host_bfp8", Format::Bfp8),
    (PACK, "pack.x", "pack.host_bfp4", Format::Bfp4),
    (PACK, "mm64x96x64.b", "mm64x96x64.b_bfp8", Format::Bfp8),
    (PACK, "mm64x768x96.b", "mm64x768x96.b_bfp8", Format::Bfp8),
    (PACK, "mm32x2048x64.b", "mm32x2048x64.b_bfp8", Format::Bfp8),
    (TILE, "A", "a8", Format::Bfp8),
    (TILE, "B", "b8", Format::Bfp8),
    (TILE, "B", "b4", Format::Bfp4),
];

/// Type casts by the device's packer.
const DEVICE: [(&[u8], &str, &str, Format); 2] =
    [(PACK, "pack.x", "pack.device_bfp8", Format::Bfp8), (TILE, "X", "tob8", Format::Bfp8)];

fn assert_equal(got: &[f32], file: &'static [u8], name: &str) {
    let (want, _) = matrix(file, name);
    assert_eq!(got.len(), want.len(), "{name}");
    let differing = got.iter().zip(&want).filter(|(g, w)| g.to_bits() != w.to_bits()).count();
    println!("{name}: {differing} of {} values differ", want.len());
    assert_eq!(differing, 0, "{name}");
}

#[test]
fn host_conversions_equal_the_measured_ones() {
    for (file, input, output, format) in HOST {
        let (mut values, cols) = matrix(file, input);
        format.round_host_matrix(&mut values, cols);
        assert_equal(&values, file, output);
    }
}

#[test]
fn packer_conversions_equal_the_measured_ones() {
    for (file, input, output, format) in DEVICE {
        let (mut values, _) = matrix(file, input);
        let mut rounded = values.clone();
        format.pack_precise(&mut values, Dest::Bits16);
        assert_equal(&values, file, output);
        format.round_packed(&mut rounded);
        assert_equal(&rounded, file, output);
    }
}

#[test]
fn conversions_are_idempotent_and_close() {
    let mut state = 1_u32;
    let mut row: Vec<f32> = (0..4096)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (f64::from(state) / f64::from(u32::MAX) - 0.5) as f32
        })
        .collect();
    row[7] = 0.0;
    for (format, bits) in [(Format::F32, 24), (Format::Bf16, 8), (Format::Bfp8, 7), (Format::Bfp4, 3)] {
        for convert in [
            (|f, row| Format::round_host(f, row)) as fn(Format, &mut [f32]),
            |f, row| f.round_packed(row),
            |f, row| f.pack(row, Dest::Bits32),
        ] {
            let mut once = row.clone();
            convert(format, &mut once);
            for (x, y) in row.chunks(BLOCK).zip(once.chunks(BLOCK)) {
                let largest = x.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
                for (x, y) in x.iter().zip(y) {
                    // At most one and a half units of the block, where a cut or a clamp comes after rounding.
                    assert!(
                        (x - y).abs() <= 1.5 * largest * 2.0_f32.powi(1 - bits),
                        "{format:?}: {x} -> {y}"
                    );
                }
            }
            let mut twice = once.clone();
            convert(format, &mut twice);
            assert_eq!(once, twice, "{format:?}");
        }
    }
}

#[test]
fn a_short_row_is_padded_with_zeros() {
    let row: Vec<f32> = (0..21).map(|i| i as f32 / 3.0 - 2.0).collect();
    let mut padded = row.clone();
    padded.resize(32, 0.0);
    for format in [Format::Bfp8, Format::Bfp4] {
        let (mut short, mut long) = (row.clone(), padded.clone());
        format.round_host(&mut short);
        format.round_host(&mut long);
        assert_eq!(short, long[..21]);
        format.pack(&mut short, Dest::Bits16);
        format.pack(&mut long, Dest::Bits16);
        assert_eq!(short, long[..21]);
    }
    // Rows of a matrix do not share blocks: the second would otherwise get the first one's exponent.
    let mut matrix = [vec![100.0; 20], vec![0.37; 20]].concat();
    Format::Bfp8.round_host_matrix(&mut matrix, 20);
    assert!(matrix[20..].iter().all(|x| (x - 0.37).abs() < 0.002));
}

#[test]
fn ties_clamps_and_signs() {
    let convert = |format: Format, values: [f32; 3], host: bool| {
        let mut row = values;
        if host {
            format.round_host(&mut row)
        } else {
            format.pack_precise(&mut row, Dest::Bits16)
        };
        row
    };
    // 127.5 units would round to 128: both stay at 127. 0.5 units: to even, and away from zero.
    assert_eq!(convert(Format::Bfp8, [127.5, 0.5, -0.5], true), [127.0, 0.0, 0.0]);
    assert_eq!(convert(Format::Bfp8, [127.5, 0.5, -0.5], false), [127.0, 1.0, -1.0]);
    // In four bits the packer cuts what the host rounds.
    assert_eq!(convert(Format::Bfp4, [7.0, 1.75, -1.75], true), [7.0, 2.0, -2.0]);
    assert_eq!(convert(Format::Bfp4, [7.0, 1.75, -1.75], false), [7.0, 1.0, -1.0]);
    for format in [Format::Bf16, Format::Bfp8, Format::Bfp4] {
        let packed = convert(format, [-0.0, 1e-40, -1e-40], false);
        assert!(packed.iter().all(|x| x.to_bits() == 0), "{format:?} {packed:?}");
    }
    assert_eq!(convert(Format::Bf16, [f32::NAN, f32::NEG_INFINITY, 1.0], false)[0], f32::INFINITY);
}

#[test]
fn the_default_packer_rounds_twice_on_the_way_to_blocks() {
    // 5.47 units: 7 significant bits make 5.5 of it, the block's grid 6.
    for dest in [Dest::Bits16, Dest::Bits32] {
        let mut twice = [127.0, 5.468_75];
        let mut once = twice;
        Format::Bfp8.pack(&mut twice, dest);
        Format::Bfp8.pack_precise(&mut once, dest);
        assert_eq!((twice, once), ([127.0, 6.0], [127.0, 5.0]));
    }
}

#[test]
fn sizes_and_cuts() {
    let sizes = [Format::F32, Format::Bf16, Format::Bfp8, Format::Bfp4].map(Format::bytes_per_value);
    assert_eq!(sizes, [4.0, 2.0, 1.0625, 0.5625]);
    assert_eq!(tf32(f32::from_bits(0x3f80_3fff)).to_bits(), 0x3f80_2000);
    assert_eq!(truncate_bf16(-1.999_999).to_bits(), 0xbfff_0000);
}
