//! `kernels/embed.cu`.

use super::{ROWS, WIDTHS, noise};
use crate::device;
use half::{bf16, f16};
use stageline_cuda::kernels::embed::{Embed, oracle};
use stageline_cuda::launch::Half;

fn rows_are_the_oracles<T: Half>() {
    const VOCAB: usize = 50;
    let device = device();
    for hidden in WIDTHS {
        let table = noise::<T>(VOCAB * hidden, 1);
        let on_device = device.array(&table);
        for rows in ROWS {
            let ids: Vec<u32> = (0..rows).map(|r| (r * 37 % VOCAB) as u32).collect();
            let x = device.unset::<f32>(rows * hidden);
            let ids_there = device.array(&ids);
            let embed = Embed { table: on_device.slice(), ids: ids_there.slice(), x: x.slice(), hidden };
            embed.launch(device.kernels, &device.stream).expect("a launch");
            assert_eq!(x.read(), oracle(&table, &ids, hidden), "{rows} rows of {hidden}");
        }
    }
}

#[test]
fn rows_are_the_oracles_in_both_types() {
    rows_are_the_oracles::<bf16>();
    rows_are_the_oracles::<f16>();
}

#[test]
fn slices_that_do_not_fit_are_refused() {
    let device = device();
    let (table, ids, x) = (device.array(&noise::<bf16>(72, 1)), device.array(&[0u32, 1]), device.unset::<f32>(16));
    let fits = Embed { table: table.slice(), ids: ids.slice(), x: x.slice(), hidden: 8 };
    let launch = |embed: Embed<bf16>| embed.launch(device.kernels, &device.stream);
    launch(fits).expect("what fits is launched");
    let part = |range| table.slice().part(range).expect("a part of the table");
    let unfit = [
        Embed { hidden: 0, ..fits },
        Embed { hidden: 7, ..fits },
        Embed { table: part(0..71), ..fits },
        Embed { table: part(1..65), ..fits },
        Embed { x: x.slice().part(0..15).expect("a part of x"), ..fits },
        Embed { hidden: 4, ..fits },
    ];
    for embed in unfit {
        let refused = launch(embed).expect_err("what does not fit is refused").to_string();
        assert!(refused.starts_with("embed: "), "{refused}");
    }
}
