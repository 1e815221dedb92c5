use super::*;
use std::fs;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

/// A folder `model` with a file `config.json`, in a folder with a file `secret`.
fn model() -> (TempDir, PathBuf, Files) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    fs::create_dir(&dir).unwrap();
    fs::write(root.path().join("secret"), "{}").unwrap();
    fs::write(dir.join("config.json"), "{\"a\": 1}").unwrap();
    let files = Files::of_model(&dir).unwrap();
    (root, dir, files)
}

fn refused<T: std::fmt::Debug>(result: Result<T, Fault>) -> String {
    let fault = result.unwrap_err();
    assert_eq!(fault.class, stageline_base::FaultClass::InvalidRequest);
    assert!(!fault.message.contains('\n'), "{fault}");
    fault.message
}

#[test]
fn a_name_is_one_of_the_folder() {
    let (root, dir, files) = model();
    fs::create_dir(dir.join("deeper")).unwrap();
    let absolute = root.path().join("secret");
    for bad in ["../secret", "", ".", "..", "./config.json", "config.json/", "deeper/../config.json", "a\0b"]
        .into_iter()
        .chain(absolute.to_str())
    {
        for said in [refused(files.find(bad)), refused(files.folder(bad)), refused(files.bytes(bad, 9))] {
            assert!(said.contains("is not the name of a file in this folder"), "{bad}: {said}");
        }
    }
    assert_eq!(files.find("config.json").unwrap(), Some(dir.join("config.json")));
    assert!(files.folder("deeper").unwrap().unwrap().json("config.json").unwrap().is_none());
    assert!(refused(files.folder("config.json")).contains("is not a folder"));
}

#[test]
fn links_are_followed_wherever_they_lead() {
    let (root, dir, files) = model();
    // As a mounted ConfigMap, as a download cache, as somebody's other disk.
    fs::create_dir(dir.join("..2026_01_01")).unwrap();
    fs::write(dir.join("..2026_01_01/tokenizer.json"), "[1]").unwrap();
    symlink("..2026_01_01", dir.join("..data")).unwrap();
    symlink("..data/tokenizer.json", dir.join("tokenizer.json")).unwrap();
    fs::create_dir_all(root.path().join("blobs")).unwrap();
    fs::write(root.path().join("blobs/12"), "[2]").unwrap();
    symlink("../blobs/12", dir.join("index.json")).unwrap();
    symlink(root.path().join("secret"), dir.join("other.json")).unwrap();
    symlink("other.json", dir.join("other-again.json")).unwrap();
    for (name, text) in
        [("tokenizer.json", "[1]"), ("index.json", "[2]"), ("other.json", "{}"), ("other-again.json", "{}")]
    {
        assert_eq!(files.text(name).unwrap().as_deref(), Some(text));
    }
    symlink(&dir, root.path().join("link")).unwrap();
    let through = Files::of_model(&root.path().join("link")).unwrap();
    assert_eq!(through.text("tokenizer.json").unwrap().as_deref(), Some("[1]"));
    symlink("..data", dir.join("1_Pooling")).unwrap();
    assert!(files.folder("1_Pooling").unwrap().unwrap().text("tokenizer.json").unwrap().is_some());
}

#[test]
fn absent_is_not_unreadable() {
    let (root, dir, files) = model();
    assert!(files.bytes("absent.json", 9).unwrap().is_none() && files.folder("absent").unwrap().is_none());
    assert!(refused(files.expect("absent.json")).contains("absent.json is not there: fetch the model again"));
    fs::create_dir(dir.join("folder.json")).unwrap();
    symlink("../blobs/gone", dir.join("dangling.json")).unwrap();
    symlink("round.json", dir.join("round.json")).unwrap();
    symlink("/proc/self/environ", dir.join("kernel.json")).unwrap();
    symlink("/dev/null", dir.join("device.json")).unwrap();
    fs::write(dir.join("latin.json"), b"{\"a\": \"\xe9\"}").unwrap();
    fs::write(dir.join("half.json"), "{\"a\": ").unwrap();
    fs::write(dir.join("list.json"), "[]").unwrap();
    fs::write(dir.join("lfs.json"), "version https://git-lfs.github.com/spec/v1\noid sha256:12\n").unwrap();
    for (name, said) in [
        ("folder.json", "is not a file, but a folder"),
        ("dangling.json", "is a link to ../blobs/gone, and nothing is there"),
        ("round.json", "oo many levels of symbolic links"),
        ("kernel.json", "where no model's files are"),
        ("device.json", "is not a file"),
        ("latin.json", "is not UTF-8 text"),
        ("half.json", "is not JSON: EOF"),
        ("list.json", "is not a JSON object"),
        ("lfs.json", "git lfs pull"),
    ] {
        let message = refused(files.object(name));
        assert!(message.contains(said) && message.contains(name), "{said}: {message}");
    }
    assert!(refused(files.folder("dangling.json")).contains("nothing is there"));
    assert!(refused(files.bytes("config.json", 7)).contains("is longer than 7 bytes"));
    assert!(refused(Files::of_model(&root.path().join("nowhere"))).contains("nowhere: No such file"));
    assert!(refused(Files::of_model(&dir.join("config.json"))).contains("is not a folder"));
}

#[test]
fn a_file_is_bounded_before_it_is_read() {
    let (_root, dir, files) = model();
    // Without the bound this would ask for a terabyte.
    fs::File::create(dir.join("sparse.json")).unwrap().set_len(1 << 40).unwrap();
    assert!(refused(files.json("sparse.json")).contains("is longer than"));
}

#[test]
fn in_a_pipeline_only_what_the_manifest_lists_counts() {
    let (_root, dir, _) = model();
    let bytes = fs::read(dir.join("config.json")).unwrap();
    let entry =
        FileEntry { file: "config.json".into(), bytes: bytes.len() as u64, sha256: hex(&Sha256::digest(&bytes)) };
    let files = Files::of_manifest(&dir, &[entry]);
    fs::write(dir.join("dropped.json"), "{}").unwrap();
    fs::create_dir(dir.join("1_Pooling")).unwrap();
    assert_eq!(files.bytes("config.json", 99).unwrap(), Some(bytes));
    assert!(files.find("dropped.json").unwrap().is_none() && files.bytes("dropped.json", 9).unwrap().is_none());
    assert!(files.folder("1_Pooling").unwrap().is_none());
    for altered in ["{\"a\": 2}", "{\"a\": 1} ", ""] {
        fs::write(dir.join("config.json"), altered).unwrap();
        let message = refused(files.json("config.json"));
        assert!(message.contains("is not the file that pipeline.json lists"), "{message}");
    }
    fs::remove_file(dir.join("config.json")).unwrap();
    assert!(refused(files.bytes("config.json", 99)).contains("is not there: the manifest names it"));
}
