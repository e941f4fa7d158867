"""Repositories of the corpus that mdl does not yet take as the reference does."""

NOT_YET = frozenset(
    """
    adapter_of_an_encoder adapter_of_another_model added_tokens amd_floats aqlm
    architecture_absent architecture_as_text architecture_empty architecture_null
    architecture_of_another_library architecture_of_fsdp awq base_by_hand base_of_another_machine
    bnb_8bit bpe_codes broken_generation compressed_tensors config_names_a_file_outside
    config_names_a_missing_file config_names_a_pickle dora_adapter exl2 file_that_the_config_names
    four_bit_floats gguf_only gptq hqq ia3 index_of_the_base index_that_leads_out
    index_that_the_config_names leftover_asked_for_in_16bit leftover_bnb_4bit leftover_bnb_8bit
    leftover_mlx leftover_the_other_way lfs_pointer lfs_pointer_as_shard lfs_pointer_as_tokenizer
    list_of_sizes lora_adapter lora_of_tomorrow marian masked_without_architecture mlx mlx_of_old
    model_and_adapter model_in_a_folder nested_mlx nested_quantization no_generation no_peft_type
    number_in_quotes odd_windows one_token_beyond one_token_beyond_in_4bit onnx_only p_tuning
    packed_and_silent pickled_adapter pipeline_in_parts prefix_tuning prompt_tuning quark
    readme_only sentence_transformer sentence_transformer_of_old shards_in_a_folder
    shards_named_after_the_single_file shards_with_a_name_of_their_own shards_without_an_index
    single_file_and_shards smaller_tokenizer stale_shards tensor_in_two_shards tiktoken
    tokenizer_of_tomorrow torchao trainable_tokens unicode_names unknown_method
    unknown_method_over_floats unknown_peft_type variant_only vision_without_architecture
    wrapped_names
    """.split()
)
