//! Multipart uploads: several files, all or none.

use http::Method;

use super::*;

const KIND: (&str, &str) = ("content-type", "multipart/form-data; boundary=XX");

/// A part: name, file name if any, content.
type Part<'a> = (&'a str, Option<&'a str>, &'a [u8]);

fn form(parts: &[Part<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file, bytes) in parts {
        let file = file.map(|file| format!("; filename=\"{file}\"")).unwrap_or_default();
        body.extend(format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").bytes());
        body.extend_from_slice(bytes);
        body.extend(b"\r\n");
    }
    body.extend(b"--XX--\r\n");
    body
}

async fn post(envd: &Envd, uri: &str, body: Vec<u8>) -> Answer {
    envd.call(Method::POST, uri, &[KIND], body).await
}

#[tokio::test]
async fn parts_become_files_under_their_own_names() {
    let envd = Envd::start().await;
    let home = envd.home.path();
    let (large, tricky) = (noise(900_000), b"\r\n--X\r\n\r--XX\r\n--XY\r\r\n".repeat(1000));
    let (one, two) = (home.join("a/one").display().to_string(), home.join("b/two ü").display().to_string());
    let three = home.join("three").display().to_string();
    let parts: [Part<'_>; 4] = [
        ("file", Some(&one), &large),
        ("note", None, b"passed over"),
        ("file", Some(&two), &tricky),
        ("file", Some(&three), b""),
    ];
    let answer = post(&envd, "/files", form(&parts)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let paths: Vec<_> = answer.json().as_array().unwrap().iter().map(|file| file["path"].clone()).collect();
    assert_eq!(paths, [one.as_str(), &two, &three]);
    assert!(fs::read(&one).unwrap() == large);
    assert!(fs::read(&two).unwrap() == tricky);
    assert_eq!(fs::read(&three).unwrap(), b"");
}

#[tokio::test]
async fn the_query_names_a_single_part_and_packed_or_raw_bodies_are_taken_too() {
    let envd = Envd::start().await;
    let path = envd.home.path().join("file");
    let answer = post(&envd, &uri(&path), form(&[("file", Some("/etc/ignored"), b"one")])).await;
    assert_eq!(answer.json()[0]["path"], path.to_str().unwrap());
    assert_eq!(fs::read(&path).unwrap(), b"one");
    let packed = super::conditional::pack(&form(&[("file", None, &vec![7; 3_000_000])])).await;
    let answer = envd.call(Method::POST, &uri(&path), &[KIND, ("content-encoding", "gzip")], packed).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(fs::read(&path).unwrap() == vec![7; 3_000_000]);
    let raw = [("content-type", "application/octet-stream")];
    assert_eq!(envd.call(Method::POST, &uri(&path), &raw, "raw").await.status, 200);
    assert_eq!(fs::read(&path).unwrap(), b"raw");
}

#[tokio::test]
async fn a_form_that_is_refused_changes_nothing() {
    let envd = Envd::start().await;
    let home = envd.home.path();
    let (old, other) = (home.join("old").display().to_string(), home.join("other").display().to_string());
    fs::write(&old, "old").unwrap();
    let good: Part<'_> = ("file", Some(&old), b"new");
    let same = format!("{}/./old", home.display());
    let dir = home.display().to_string();
    let whole = form(&[good, ("file", Some(&other), b"x")]);
    let mut long_head = b"--XX\r\nContent-Disposition: form-data; name=\"".to_vec();
    long_head.extend(std::iter::repeat_n(b'n', 1_000_000));
    for (what, body) in [
        ("the same path twice", form(&[good, good])),
        ("the same path in other words", form(&[good, ("file", Some(&same), b"x")])),
        ("a directory", form(&[good, ("file", Some(&dir), b"x")])),
        ("no path", form(&[good, ("file", None, b"x")])),
        ("no file", form(&[("note", None, b"x")])),
        ("nothing", form(&[])),
        ("an empty body", Vec::new()),
        ("no form", b"hello".to_vec()),
        ("cut in the last part", whole[..whole.len() - 12].to_vec()),
        ("cut before the end mark", whole[..whole.len() - 6].to_vec()),
        ("an endless head", long_head),
        ("endless padding", vec![b' '; 1_000_000]),
    ] {
        let answer = post(&envd, "/files", body).await;
        assert_eq!(answer.status, 400, "{what} {answer:?}");
        assert_eq!(fs::read(&old).unwrap(), b"old", "{what}");
        assert!(!home.join("other").exists(), "{what}");
    }
    assert_eq!(post(&envd, &uri(&old), form(&[good, ("file", Some(&other), b"x")])).await.status, 400);
    let unnamed = [("content-type", "multipart/form-data")];
    assert_eq!(envd.call(Method::POST, &uri(&old), &unnamed, "x").await.status, 400);
    assert_eq!(fs::read(&old).unwrap(), b"old");
    assert_eq!(names(home), ["old", "run"]);
}

#[tokio::test]
async fn files_in_one_form_are_bounded_in_number() {
    let envd = Envd::start().await;
    let names: Vec<_> = (0..257).map(|n| envd.home.path().join(format!("many/{n}")).display().to_string()).collect();
    let parts: Vec<Part<'_>> = names.iter().map(|name| ("file", Some(name.as_str()), &b"x"[..])).collect();
    let answer = post(&envd, "/files", form(&parts)).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(super::names(&envd.home.path().join("many")).len(), 0);
    let answer = post(&envd, "/files", form(&parts[..256])).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(super::names(&envd.home.path().join("many")).len(), 256);
}

#[tokio::test]
async fn many_small_parts_do_not_pile_up_in_memory() {
    let envd = Envd::start().await;
    // 60 MB of parts nobody wants, each a few bytes: the parser must not run ahead of its reader.
    let part = form(&[("note", None, b"x")]);
    let part = &part[..part.len() - 8];
    let mut body = part.repeat(60_000_000 / part.len());
    body.extend(form(&[("file", None, b"y")]));
    let path = envd.home.path().join("file");
    let answer = post(&envd, &uri(&path), body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(fs::read(&path).unwrap(), b"y");
    let peak = envd.status_number("VmHWM");
    assert!(peak < 40 * 1024, "{peak} KiB");
}
