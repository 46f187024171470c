import pytest
from wrenn._git.exceptions import GitError

REPO = "/home/wrenn-user/sdk-repo"


def test_a_repository_from_init_to_push_and_pull(capsule):
    git, files = capsule.git, capsule.files
    git.init(REPO, initial_branch="main")
    assert files.exists(f"{REPO}/.git")
    status = git.status(cwd=REPO)
    assert status.is_clean and status.branch == "main"
    git.configure_user("Tester", "tester@example.com", scope="local", cwd=REPO)
    assert git.get_config("user.name", cwd=REPO) == "Tester"
    assert git.get_config("no.such", cwd=REPO) is None
    git.set_config("wrenn.key", "a value", cwd=REPO)
    assert git.get_config("wrenn.key", cwd=REPO) == "a value"
    files.write(f"{REPO}/file", "one\n")
    assert git.status(cwd=REPO).has_untracked
    git.add(all=True, cwd=REPO)
    assert git.status(cwd=REPO).has_staged
    git.commit("the first", cwd=REPO)
    assert git.status(cwd=REPO).is_clean
    git.create_branch("side", cwd=REPO)
    git.checkout_branch("main", cwd=REPO)
    branches = git.branches(cwd=REPO)
    assert {one.name for one in branches} == {"main", "side"} and sum(one.is_current for one in branches) == 1
    git.delete_branch("side", force=True, cwd=REPO)
    git.init("/home/wrenn-user/sdk-origin.git", bare=True, initial_branch="main")
    git.remote_add("origin", "/home/wrenn-user/sdk-origin.git", cwd=REPO)
    assert git.remote_get("origin", cwd=REPO) == "/home/wrenn-user/sdk-origin.git"
    git.push("origin", "main", set_upstream=True, cwd=REPO)
    git.clone("/home/wrenn-user/sdk-origin.git", "/home/wrenn-user/sdk-clone", branch="main")
    git.configure_user("Other", "other@example.com", scope="local", cwd="/home/wrenn-user/sdk-clone")
    files.write("/home/wrenn-user/sdk-clone/file", "two\n")
    git.add(["file"], cwd="/home/wrenn-user/sdk-clone")
    git.commit("the second", cwd="/home/wrenn-user/sdk-clone")
    git.push(cwd="/home/wrenn-user/sdk-clone")
    git.pull("origin", "main", ff_only=True, cwd=REPO)
    assert files.read(f"{REPO}/file") == "two\n"
    files.write(f"{REPO}/file", "dirty\n")
    git.restore(["file"], worktree=True, cwd=REPO)
    assert files.read(f"{REPO}/file") == "two\n"
    git.reset(mode="hard", ref="HEAD~1", cwd=REPO)
    assert files.read(f"{REPO}/file") == "one\n"


def test_what_git_refuses_is_a_git_error(capsule):
    with pytest.raises(GitError):
        capsule.git.status(cwd="/tmp")
    with pytest.raises(GitError):
        capsule.git.clone("/no/such/repository", "/tmp/never")


def test_credentials_are_stored_where_git_looks_for_them(capsule):
    capsule.git.dangerously_authenticate("somebody", "se:cret", host="git.example.com")
    filled = "printf 'protocol=https\\nhost=git.example.com\\n\\n' | git credential fill"
    said = capsule.commands.run(filled, envs={"GIT_TERMINAL_PROMPT": "0"}).stdout.splitlines()
    assert "username=somebody" in said and "password=se:cret" in said
    capsule.commands.run("rm ~/.git-credentials; git config --global --unset credential.helper")
