# find_package(tinyopt): compile ONNX models as part of the build.
#
#   tinyopt_add_model(NAME kws MODEL kws.onnx [TARGET cortex-m4] [CALIB calib.npz:x ...] [EVAL test.npz:x,y]
#                     [RECIPE tinyopt.toml] [OPTIONS ...] [DEPENDS ...])
#
# makes the library tinyopt::kws. Paths are relative to the folder of the CMakeLists.txt that says so.
# Properties of the target: TINYOPT_ARENA_BYTES, TINYOPT_ARENA_ALIGN (of each memory region: TINYOPT_REGION_<NAME>_BYTES),
# from the second configuration on; TINYOPT_FOLDER, where the sources and report.html lie.
cmake_minimum_required(VERSION 3.21)

set(TINYOPT_CMAKE_DIR "${CMAKE_CURRENT_LIST_DIR}")
find_program(
  TINYOPT_EXECUTABLE tinyopt
  HINTS "${CMAKE_CURRENT_LIST_DIR}/../../../../../bin" "${CMAKE_CURRENT_LIST_DIR}/../../../../Scripts"
        "${CMAKE_CURRENT_LIST_DIR}/../../.venv/bin"
  NO_CMAKE_FIND_ROOT_PATH
  DOC "The compiler from ONNX to C")
if(NOT TINYOPT_EXECUTABLE)
  set(tinyopt_FOUND FALSE)
  set(tinyopt_NOT_FOUND_MESSAGE "no tinyopt on PATH: activate its Python environment or set TINYOPT_EXECUTABLE")
  return()
endif()

# Sets `result` to the tinyopt target of this build, by the compiler's -mcpu, else by CMAKE_SYSTEM_PROCESSOR.
function(tinyopt_guess_target result)
  get_directory_property(options COMPILE_OPTIONS)
  string(TOLOWER "${CMAKE_SYSTEM_PROCESSOR}" cpu)
  string(TOLOWER "${CMAKE_C_COMPILER_ARG1} ${CMAKE_C_FLAGS} ${options}" flags)
  if(flags MATCHES ".*-mcpu[= ]([a-z0-9._-]+)([a-z0-9.+]*)") # the last one counts
    set(cpu "${CMAKE_MATCH_1}")
    set(extensions "${CMAKE_MATCH_2}")
  endif()
  if(cpu MATCHES "^(cortex|neoverse|apple)_") # as zig writes it
    string(REPLACE "_" "-" cpu "${cpu}")
  endif()
  set(named cortex-a53 cortex-a55 cortex-a72 cortex-a76 cortex-a78 cortex-a510 cortex-a710 cortex-x1 neoverse-n1
            neoverse-v1 apple-m1)
  set(target "")
  if(cpu MATCHES "^(cortex-m0|cortex-m0plus|cortex-m1|cortex-m23|armv6-m|armv6s-m|armv8-m.base)$")
    set(target cortex-m0plus)
  elseif(cpu MATCHES "^(cortex-m3|armv7-m)$" OR (cpu MATCHES "^cortex-m33" AND extensions MATCHES "nodsp"))
    set(target cortex-m3)
  elseif(cpu MATCHES "^(cortex-m4|armv7e-m)")
    set(target cortex-m4)
  elseif(cpu MATCHES "^cortex-m7")
    set(target cortex-m7)
  elseif(cpu MATCHES "^cortex-m(33|35p)" OR (cpu MATCHES "^cortex-m(55|85)" AND extensions MATCHES "nomve"))
    set(target cortex-m33)
  elseif(cpu MATCHES "^cortex-m(55|85)$")
    set(target "${cpu}")
  elseif(CMAKE_SYSTEM_NAME STREQUAL "Linux" AND (cpu MATCHES "^armv7" OR (CMAKE_SIZEOF_VOID_P EQUAL 4 AND cpu MATCHES "^(arm|cortex-a)")))
    set(target arm32)
  elseif(CMAKE_SYSTEM_NAME STREQUAL "Linux" AND cpu IN_LIST named)
    set(target "${cpu}")
  elseif(CMAKE_SYSTEM_NAME STREQUAL "Linux" AND cpu MATCHES "^(aarch64|arm64|armv[89]|cortex-[ax]|neoverse)")
    set(target arm)
  elseif(NOT CMAKE_CROSSCOMPILING AND NOT WIN32)
    set(target host)
  endif()
  if(NOT target)
    message(FATAL_ERROR "tinyopt_add_model: no target of tinyopt is known for '${cpu}' (${CMAKE_SYSTEM_NAME}): give "
                        "TARGET, see `tinyopt targets`; c works everywhere")
  endif()
  set(${result} "${target}" PARENT_SCOPE)
endfunction()

function(tinyopt_add_model)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "NAME;MODEL;TARGET;RECIPE" "CALIB;EVAL;OPTIONS;DEPENDS")
  if(arg_UNPARSED_ARGUMENTS OR NOT arg_NAME OR NOT arg_MODEL)
    message(FATAL_ERROR "tinyopt_add_model(NAME name MODEL model.onnx [TARGET] [CALIB] [EVAL] [RECIPE] [OPTIONS] "
                        "[DEPENDS]) got '${ARGV}'")
  endif()
  if(NOT arg_NAME MATCHES "^[a-z][a-z0-9_]*$")
    message(FATAL_ERROR "tinyopt_add_model: NAME '${arg_NAME}' becomes part of C names: small letters, digits and _")
  endif()
  if(NOT arg_TARGET)
    tinyopt_guess_target(arg_TARGET)
  endif()
  set(name "${arg_NAME}")
  set(work "${CMAKE_CURRENT_BINARY_DIR}/tinyopt")
  set(folder "${work}/${name}")
  set(stamp "${work}/${name}.stamp")
  set(facts "${work}/${name}.cmake")
  file(MAKE_DIRECTORY "${folder}")
  if(NOT EXISTS "${facts}")
    file(WRITE "${facts}" "")
  endif()
  file(REAL_PATH "${arg_MODEL}" model BASE_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}")

  set(words compile "${model}" --target "${arg_TARGET}" --name "${name}" --output "${folder}" --quiet)
  list(APPEND words -MF "${stamp}.d" -MT "${stamp}")
  foreach(option CALIB EVAL RECIPE)
    string(TOLOWER "--${option}" flag)
    foreach(value IN LISTS arg_${option})
      list(APPEND words "${flag}" "${value}")
    endforeach()
  endforeach()
  if(arg_TARGET MATCHES "^(c|cortex-m.*)$")
    set(products "${folder}/${name}.c" "${folder}/${name}_weights.c")
  else()
    set(products "${folder}/lib${name}.a")
  endif()
  # The products keep their times where their bytes did not change, so that a stamp says when this was done.
  add_custom_command(
    OUTPUT "${stamp}"
    BYPRODUCTS ${products} "${folder}/${name}.h" "${folder}/report.json"
    COMMAND "${TINYOPT_EXECUTABLE}" ${words} ${arg_OPTIONS}
    COMMAND "${CMAKE_COMMAND}" "-DNAME=${name}" "-DFOLDER=${folder}" "-DFACTS=${facts}" "-DSTAMP=${stamp}" -P
            "${TINYOPT_CMAKE_DIR}/tinyoptFinish.cmake"
    DEPENDS "${model}" ${arg_DEPENDS}
    DEPFILE "${stamp}.d"
    WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}"
    COMMENT "Compiling model ${name} for ${arg_TARGET}"
    VERBATIM)
  add_custom_target(tinyopt_${name}_compile DEPENDS "${stamp}")

  if(arg_TARGET MATCHES "^(c|cortex-m.*)$")
    add_library(tinyopt_${name} STATIC ${products})
    set_target_properties(tinyopt_${name} PROPERTIES OUTPUT_NAME "${name}")
    target_compile_features(tinyopt_${name} PUBLIC c_std_99)
    target_include_directories(tinyopt_${name} PUBLIC "$<BUILD_INTERFACE:${folder}>")
    if(NOT MSVC AND NOT CMAKE_SYSTEM_NAME STREQUAL "Generic")
      target_link_libraries(tinyopt_${name} PUBLIC m)
    endif()
  else()
    set(libraries m)
    if("--threads" IN_LIST arg_OPTIONS OR arg_OPTIONS MATCHES "--threads=" OR arg_RECIPE)
      list(APPEND libraries pthread)
    endif()
    add_library(tinyopt_${name} STATIC IMPORTED GLOBAL)
    set_target_properties(tinyopt_${name} PROPERTIES IMPORTED_LOCATION "${products}")
    target_include_directories(tinyopt_${name} INTERFACE "${folder}")
    target_link_libraries(tinyopt_${name} INTERFACE ${libraries})
  endif()
  add_dependencies(tinyopt_${name} tinyopt_${name}_compile)
  set_target_properties(tinyopt_${name} PROPERTIES TINYOPT_FOLDER "${folder}")
  add_library(tinyopt::${name} ALIAS tinyopt_${name})

  # What the header states is read again when it changes: configuring never compiles a model.
  include("${facts}")
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${facts}")
endfunction()
