use super::*;

/// A manifest of version 1, as `split` wrote it before there were units, and its digest then.
const VERSION_1: &str = include_str!("version_1.json");
const DIGEST_1: &str = "0c617e70b5067e14e79bf0a03127b032112a63bd2b19aaee573bcd328924a234";

fn file(name: &str) -> FileEntry {
    FileEntry { file: name.into(), bytes: 3, sha256: "0123456789abcdef".repeat(4) }
}

fn manifest() -> Manifest {
    let stage = |k: usize, units, cost| StageEntry {
        units,
        border: vec![if k == 0 { "tokens u32 [rows, 1]" } else { "hidden f32 [rows, 8]" }.into()],
        shard: file(&format!("stage-{k}.safetensors")),
        parameters: 7,
        cost,
    };
    Manifest {
        version: 2,
        name: "smollm2-135m".into(),
        config: serde_json::json!({"num_hidden_layers": 3, "b": 1, "a": {"d": 1.5e-5, "c": 2}}),
        dtype: "bf16".into(),
        balance: "cost".into(),
        mix: Some("512:128".into()),
        units: ["patches", "eye 0", "eye 1", "layer 0", "layer 1"].map(String::from).into(),
        stages: vec![stage(0, [0, 3], 0.6), stage(1, [3, 5], 0.4)],
        tied: vec!["model.embed_tokens.weight".into()],
        files: vec![file("tokenizer.json")],
    }
}

#[test]
fn the_digest_depends_on_what_is_said_and_not_on_the_layout() {
    let manifest = manifest();
    manifest.validate().unwrap();
    let parsed = Manifest::parse(&manifest.to_file()).unwrap();
    assert_eq!(parsed, manifest);
    assert_eq!(parsed.digest(), Manifest::parse(&manifest.canonical()).unwrap().digest());
    let reordered = String::from_utf8(manifest.canonical())
        .unwrap()
        .replace(r#""config":{"a":{"c":2,"d":0.000015},"b":1,"#, r#""config": {"b":1, "a":{"d":15e-6,"c":2},"#);
    assert_ne!(reordered.as_bytes(), manifest.canonical());
    assert_eq!(Manifest::parse(reordered.as_bytes()).unwrap().digest(), manifest.digest());
    let mut other = manifest.clone();
    other.stages[1].shard.sha256.replace_range(0..1, "f");
    assert_ne!(other.digest(), manifest.digest());
    let mut other = manifest.clone();
    other.stages[1].border = vec!["hidden bf16 [rows, 8]".into()];
    assert_ne!(other.digest(), manifest.digest());
    assert_eq!(manifest.digest8().len(), 8);
    assert!(manifest.digest8().chars().all(|c| c.is_ascii_hexdigit()));
}

#[test]
fn version_1_is_read_and_keeps_its_digest() {
    let old = Manifest::parse(VERSION_1.as_bytes()).unwrap();
    assert_eq!(hex(&old.digest()), DIGEST_1);
    assert_eq!(String::from_utf8(old.to_file()).unwrap(), VERSION_1);
    assert_eq!((old.version, old.unit_count(), &old.mix), (1, 4, &None));
    assert_eq!(old.stages.iter().map(|stage| stage.units).collect::<Vec<_>>(), [[0, 2], [2, 4]]);
    // It is read as what it is: neither version has the other's fields.
    for (from, to, said) in [
        ("\"layers\"", "\"units\"", "unknown field `units`"),
        ("\"tied\"", "\"mix\"", "unknown field `mix`"),
        ("\"version\": 1", "\"version\": 2", "unknown field `layers`"),
        ("\"version\": 1", "\"version\": 3", "version 3 (this program reads 1 and 2)"),
    ] {
        assert!(VERSION_1.contains(from), "{from}");
        let fault = Manifest::parse(VERSION_1.replace(from, to).as_bytes()).unwrap_err();
        assert!(fault.message.contains(said), "{said}: {fault}");
    }
    let mut short = old;
    short.config["num_hidden_layers"] = 6.into();
    assert!(short.validate().unwrap_err().message.contains("end at layer 4, num_hidden_layers is Some(6)"));
}

#[test]
fn every_wrong_field_is_named() {
    type Break = fn(&mut Manifest);
    let breaks: [(Break, &str); 23] = [
        (|m| m.version = 3, "version 3"),
        (|m| m.name = "Big".into(), "name \"Big\""),
        (|m| m.name = "-a".into(), "name \"-a\""),
        (|m| m.name = String::new(), "name \"\""),
        (|m| m.dtype = "i8".into(), "dtype \"i8\""),
        (|m| m.balance = "luck".into(), "balance \"luck\""),
        (|m| m.mix = Some("512".into()), "mix \"512\""),
        (|m| m.stages.clear(), "0 stages"),
        (|m| drop(m.units.pop()), "stages end at unit 5 of 4"),
        (|m| m.units[1] = m.units[0].clone(), "a unit twice"),
        (|m| m.stages[1].border.clear(), "border \"\" of stage 1"),
        (|m| m.stages[1].border[0].push(' '), "border \"hidden f32 [rows, 8] \" of stage 1"),
        (|m| m.stages[1].units = [2, 5], "stage 1 has units 2..5, expected 3..more"),
        (|m| m.stages[0].units = [0, 0], "stage 0 has units 0..0"),
        (|m| m.stages[0].parameters = 0, "stage 0 has no parameters"),
        (|m| m.stages[0].cost = f64::NAN, "stage 0 has cost NaN"),
        (|m| m.stages[0].cost = 0.1, "costs sum to 0.5"),
        (|m| m.stages[0].shard.file = "../x.safetensors".into(), "file name \"../x.safetensors\""),
        (|m| m.stages[0].shard.file = "x.bin".into(), "shard \"x.bin\" of stage 0"),
        (|m| m.files[0].file = "pipeline.json".into(), "file \"pipeline.json\" twice"),
        (|m| m.files[0].file = "/etc/passwd".into(), "file name \"/etc/passwd\""),
        (|m| m.files[0].sha256 = "A".repeat(64), "sha256 of \"tokenizer.json\""),
        (|m| m.tied.push(m.tied[0].clone()), "a tied tensor twice"),
    ];
    for (wrong, said) in breaks {
        let mut manifest = manifest();
        wrong(&mut manifest);
        let fault = manifest.validate().unwrap_err();
        assert!(fault.message.contains(said), "{said}: {fault}");
    }
    let mut two = manifest();
    two.version = 9;
    two.dtype = "x".into();
    assert_eq!(
        two.validate().unwrap_err().message,
        "pipeline.json is wrong: version 9 (this program reads 1 and 2); dtype \"x\""
    );
    let unknown = String::from_utf8(manifest().to_file()).unwrap().replace("\"tied\"", "\"glued\"");
    assert!(Manifest::parse(unknown.as_bytes()).unwrap_err().message.contains("glued"));
}
