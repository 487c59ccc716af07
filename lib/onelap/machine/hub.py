"""Models of the Hugging Face hub, named `owner/name@revision`: the only place where something is downloaded."""

from pathlib import Path

from onelap import UserError

DOWNLOAD_GB = {  # two bytes a weight
    "HuggingFaceTB/SmolLM2-135M-Instruct": 0.3,
    "Qwen/Qwen3-0.6B": 1.5,
    "Qwen/Qwen2.5-3B-Instruct": 6.2,
    "Qwen/Qwen3-4B-Instruct-2507": 8.1,
    "meta-llama/Llama-3.1-8B-Instruct": 16.1,
}
FETCHED = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"]


def split_name(name: str) -> tuple[str, str | None]:
    """Split a name into repository and revision, a commit; None is the newest, which another day is another model."""
    repository, _, revision = name.partition("@")
    return repository, revision or None


def download_size(name: str) -> str:
    """Write how much there is to download, after a comma; empty for a model that is not in `params/`."""
    size = DOWNLOAD_GB.get(split_name(name)[0])
    return f", {size} GB" if size else ""


def fetch(name: str) -> Path:
    """Download a model; the hub receives its name and a stored access token. Raises UserError where it refuses."""
    try:
        return _snapshot(name)
    except Exception as error:  # whatever the network, the hub or the disk raises
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"base_model {name}: not downloaded: {reason}") from None


def find_downloaded(name: str) -> Path:
    """Find the folder in which the hub's client keeps a model. Raises UserError where it was not downloaded."""
    try:
        return _snapshot(name, local_files_only=True)
    except (ValueError, FileNotFoundError):  # a name that no model can have; one that is not there
        raise UserError(
            f"base_model {name}: there is no such folder, and no model of that name and revision has been downloaded; "
            f"`onelap fetch PARAMS.yaml` downloads it{download_size(name)}"
        ) from None


def _snapshot(name: str, **options) -> Path:
    """The same files when they are fetched and when they are found, or the client calls the download incomplete."""
    from huggingface_hub import snapshot_download

    repository, revision = split_name(name)
    return Path(snapshot_download(repository, revision=revision, allow_patterns=FETCHED, **options))
