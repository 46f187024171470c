//! The page `/device` in a real browser: the login a person does, and what pages of others try meanwhile.

use fantoccini::{Client, Locator};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wrenn_testkit::browser::Browser;
use wrenn_testkit::wait_until;

use super::{EMAIL, SOON, World};

async fn text(page: &Client, id: &str) -> String {
    page.find(Locator::Id(id)).await.expect("on the page").text().await.expect("readable")
}

/// Waits until the person can see this form.
async fn shown(page: &Client, id: &str) {
    wait_until(&format!("the form {id}"), SOON, || async {
        let form = page.find(Locator::Id(id)).await.ok()?;
        form.is_displayed().await.ok()?.then_some(())
    })
    .await;
}

async fn press(page: &Client, form: &str) {
    let button = page.find(Locator::Css(&format!("#{form} button"))).await.expect("a button");
    button.click().await.expect("pressed");
}

async fn fill(page: &Client, name: &str, value: &str) {
    let field = page.find(Locator::Css(&format!("input[name={name}]"))).await.expect("a field");
    field.clear().await.expect("cleared");
    field.send_keys(value).await.expect("typed");
}

/// A site of somebody else: one empty page, whatever is asked.
async fn other_site() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 8192]).await;
                let page = "<!DOCTYPE html><title>other</title><body></body>";
                let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n", page.len());
                let _ = stream.write_all(format!("{head}Connection: close\r\n\r\n{page}").as_bytes()).await;
            });
        }
    });
    port
}

/// Runs the body of an async function in the page; what it returns.
async fn run(page: &Client, body: &str, args: Vec<Value>) -> Value {
    let script = format!(
        "const done = arguments[arguments.length - 1];
         (async (...given) => {{ {body} }})(...Array.from(arguments).slice(0, -1)).then(done, (e) => done(String(e)));"
    );
    page.execute_async(&script, args).await.expect("runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_lets_a_program_in_and_no_other_page_can() {
    let Some(browser) = Browser::start().await else { return };
    let (world, page) = (World::start().await, &browser.page);
    let (login, url, code) = world.begin_login().await;
    assert!(url.starts_with(&format!("{}/device?code=", world.base)), "{url}");
    page.goto(&url).await.expect("opens");

    shown(page, "login").await;
    fill(page, "email", EMAIL).await;
    fill(page, "password", "wrong horse").await;
    press(page, "login").await;
    wait_until("it says what is wrong", SOON, || async { text(page, "message").await.contains("wrong").then_some(()) })
        .await;
    fill(page, "password", &world.password).await;
    press(page, "login").await;
    shown(page, "approve").await;
    assert_eq!(text(page, "shown").await, code);
    assert!(text(page, "client").await.starts_with("wrenn on "));

    // The cookies as the browser holds them.
    let cookies = page.get_all_cookies().await.expect("listed");
    let mut names: Vec<_> = cookies.iter().map(|cookie| cookie.name()).collect();
    names.sort_unstable();
    assert_eq!(names, ["wrenn_csrf", "wrenn_sid"]);
    for cookie in &cookies {
        assert_eq!(cookie.http_only(), Some(cookie.name() == "wrenn_sid"), "{cookie}");
        assert_eq!(cookie.same_site().map(|s| s.to_string()), Some("Strict".to_owned()), "{cookie}");
        assert!(!cookie.domain().unwrap_or_default().starts_with('.'), "{cookie}");
    }
    let readable = page.execute("return document.cookie", Vec::new()).await.expect("runs");
    let readable = readable.as_str().expect("text");
    assert!(readable.contains("wrenn_csrf=") && !readable.contains("wrenn_sid"), "{readable}");

    // The policy holds: no script but its own, no talk to others.
    let other = other_site().await;
    let blocked = run(
        page,
        "const seen = [];
         document.addEventListener('securitypolicyviolation', (event) => seen.push(event.effectiveDirective));
         const script = document.createElement('script');
         script.textContent = 'window.injected = true';
         document.body.append(script);
         const image = document.createElement('img');
         image.src = given[0];
         document.body.append(image);
         const talk = await fetch(given[0]).then(() => 'talked', () => 'refused');
         while (seen.length < 3) await new Promise((next) => setTimeout(next, 10));
         return { injected: window.injected === true, talk, seen: seen.sort() };",
        vec![json!(format!("http://127.0.0.1:{other}/"))],
    )
    .await;
    let expected = json!({"injected": false, "talk": "refused", "seen": ["connect-src", "img-src", "script-src-elem"]});
    assert_eq!(blocked, expected);

    press(page, "approve").await;
    wait_until("it is done", SOON, || async { text(page, "message").await.starts_with("Done").then_some(()) }).await;
    let ended = tokio::time::timeout(SOON, login.wait_with_output()).await.expect("in time").expect("ends");
    assert!(ended.status.success() && String::from_utf8_lossy(&ended.stdout).contains(EMAIL), "{ended:?}");

    // Pages of others, logged in as the person is: of another site, and of the same one at another port (a sibling).
    let (mut waiting, _, second) = world.begin_login().await;
    for host in ["localhost", "127.0.0.1"] {
        page.goto(&format!("http://{host}:{other}/")).await.expect("opens");
        let tried = run(
            page,
            "const body = JSON.stringify({ user_code: given[1] });
             const csrf = (document.cookie.match(/wrenn_csrf=([0-9a-f]+)/) || [])[1] || 'none';
             const ask = (more) => fetch(given[0], { method: 'POST', credentials: 'include', body, ...more })
                 .then((answer) => answer.type + ' ' + answer.status, () => 'refused');
             return [
                 await ask({ mode: 'no-cors' }),
                 await ask({ headers: { 'Content-Type': 'text/plain' } }),
                 await ask({ headers: { 'Content-Type': 'application/json', 'X-CSRF-Token': csrf } }),
             ];",
            vec![json!(format!("{}/v1/auth/device/approve", world.base)), json!(second)],
        )
        .await;
        assert_eq!(tried, json!(["opaque 0", "refused", "refused"]), "{host}");
        // A form, which no preflight stands before.
        page.execute(
            "const form = document.createElement('form');
             form.method = 'POST'; form.enctype = 'text/plain'; form.action = arguments[0];
             const field = document.createElement('input');
             field.name = '{\"user_code\":\"' + arguments[1] + '\",\"x\":\"'; field.value = '\"}';
             form.append(field); document.body.append(form); form.submit();",
            vec![json!(format!("{}/v1/auth/device/approve", world.base)), json!(second)],
        )
        .await
        .expect("runs");
        wait_until("the form was answered", SOON, || async {
            page.source().await.ok()?.contains("request_id").then_some(())
        })
        .await;
    }
    let approved: i64 = sqlx::query_scalar("SELECT count(*) FROM device_logins WHERE user_id IS NOT NULL")
        .fetch_one(world.database.store().pool())
        .await
        .expect("asked");
    assert_eq!(approved, 0, "nobody but the person approves");
    assert!(waiting.try_wait().expect("asked").is_none(), "the program still waits");
    // The person themselves still can.
    page.goto(&format!("{}/device", world.base)).await.expect("opens");
    shown(page, "code").await;
    fill(page, "code", &second.to_lowercase()).await;
    press(page, "code").await;
    shown(page, "approve").await;
    press(page, "approve").await;
    let ended = tokio::time::timeout(SOON, waiting.wait()).await.expect("in time").expect("ends");
    assert!(ended.success(), "{ended}");
}
