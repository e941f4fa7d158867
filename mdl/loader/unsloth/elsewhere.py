"""Names of Unsloth that mdl does not have, and what does the same."""

# `from mdl import NAME` fails with this advice.
ADVICE = {
    "get_chat_template": "from mdl.chat_templates import get_chat_template",
    "standardize_sharegpt": "from mdl.chat_templates import standardize_sharegpt",
    "train_on_responses_only": "from mdl.chat_templates import train_on_responses_only",
    "UnslothVisionDataCollator": "from mdl.trainer import UnslothVisionDataCollator",
    "UnslothTrainer": "trl.SFTTrainer",
    "UnslothTrainingArguments": "trl.SFTConfig; with embedding_learning_rate, an optimizer with "
    "two parameter groups (docs/training.md)",
    "unsloth_train": "trainer.train()",
    "unsloth_save_model": "model.save_pretrained_merged(folder, tokenizer)",
    "PatchDPOTrainer": "nothing: trl.DPOTrainer works unpatched",
    "PatchKTOTrainer": "nothing: trl's KTOTrainer works unpatched",
    "PatchFastRL": "nothing: trl.GRPOTrainer works unpatched",
    "FastTextModel": "from mdl import FastLanguageModel",
    "FastSentenceTransformer": "sentence_transformers.SentenceTransformer(mdl.pull(name).path)",
    "FastDiffusionModel": "diffusers, with the repository's own name: mdl loads transformers",
    "vLLMSamplingParams": "vllm.SamplingParams",
    "is_vLLM_available": 'importlib.util.find_spec("vllm")',
    "to_sharegpt": "datasets.Dataset.map: make a column `messages` of roles and contents",
    "apply_chat_template": "tokenizer.apply_chat_template",
}
